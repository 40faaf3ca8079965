"""ONNX: a graph of our own over `model.layers`, from uint8 images to calibrated probabilities."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnnjax.errors import ConfigError
from cnnjax.export.card import KEY, Card
from cnnjax.export.graph import IR, OPSET, Graph, Value
from cnnjax.export.portable import Portable
from cnnjax.export.rules import NoRuleError, logits

MOST = 2**31 - 2**20  # bytes of a file: protobuf's limit


def write(portable: Portable, path: Path) -> None:
    """Writes a network as ONNX.

    Raises:
        ConfigError: a layer has no rule, or the file would be too large for the format.
    """
    import onnx
    from onnx import TensorProto, helper

    card, graph = portable.card, Graph()
    x = graph.add("Cast", Value("images", (*card.shape, 3)), to=TensorProto.FLOAT)
    try:
        x = logits(graph, portable.module, x)
    except NoRuleError as error:
        raise ConfigError(
            f"--format=onnx has no rule for this network ({error}); use --format=stablehlo, which takes any"
        ) from None
    _read_out(graph, x, portable)
    if sum(constant.ByteSize() for constant in graph.constants) > MOST:
        raise ConfigError("--format=onnx: the network is larger than the 2 GB of a file of ONNX; use --format=stablehlo")
    image, result = (
        helper.make_tensor_value_info(name, kind, ["n", *shape])
        for name, kind, shape in (
            ("images", TensorProto.UINT8, (*card.shape, 3)),
            ("probabilities", TensorProto.FLOAT, (len(card.classes),)),
        )
    )
    made = helper.make_model(helper.make_graph(graph.nodes, "cnnjax", [image], [result], graph.constants),
                             opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="cnnjax")  # fmt: skip
    helper.set_model_props(made, {KEY: card.to_json()})
    onnx.checker.check_model(made)
    onnx.save(made, path)


def _read_out(graph: Graph, x: Value, portable: Portable) -> None:
    """Adds calibration, and sigmoid or softmax."""
    card = portable.card
    if card.scale != 1:
        x = graph.add("Mul", x, np.full(1, card.scale))
    if x.shape != (1,):
        graph.add("Softmax", x, axis=1, name="probabilities")
        return
    if card.intercept:
        x = graph.add("Add", x, np.full(1, card.intercept))
    p = graph.add("Sigmoid", x)
    graph.add("Concat", graph.add("Sub", np.ones(1), p, shape=(1,)), p, shape=(2,), axis=1, name="probabilities")


def card_of(properties: Mapping[str, str], path: Path) -> Card:
    """Returns the facts in the metadata of a file of ONNX. Raises ConfigError where there are none, or damaged ones."""
    if KEY not in properties:
        raise ConfigError(f"{path} is a file of ONNX without the facts of cnnjax; name one that --mode=export wrote")
    return Card.from_json(properties[KEY], str(path))
