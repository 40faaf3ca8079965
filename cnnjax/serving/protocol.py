"""The Open Inference Protocol, version 2, as KServe, Triton and others speak it: its metadata, requests and answers.

https://github.com/kserve/open-inference-protocol; without extensions, so tensors are JSON.
"""

from collections.abc import Sequence
from typing import Any

import cnnjax
from cnnjax.serving.batches import Answer
from cnnjax.serving.bodies import Refused, tensors_of
from cnnjax.serving.served import File, Served

OUTPUTS = ("probabilities", "predicted", "unlike")


def server() -> dict[str, Any]:
    """Returns the metadata of the server."""
    return {"name": "cnnjax", "version": cnnjax.__version__, "extensions": []}


def model(served: Served) -> dict[str, Any]:
    """Returns the metadata of the network. Files are the second way to send images: they are decoded as in training."""
    height, width = served.ways[0].shape
    return {
        "name": served.name, "versions": [served.version], "platform": "cnnjax",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, height, width, 3]},
                   {"name": "images", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [_output(name, served, -1) for name in OUTPUTS],
    }  # fmt: skip


def taken(body: bytes, most: int) -> tuple[list[tuple[str, File]], dict[str, Any]]:
    """Returns the images of a request and the request. Raises Refused for another one, and for outputs that there are not."""
    named, tree = tensors_of(body, most)
    wanted = tree.get("outputs", [])
    names = (
        [output.get("name") if isinstance(output, dict) else None for output in wanted]
        if isinstance(wanted, list)
        else [None]
    )
    if not set(names) <= set(OUTPUTS):
        raise Refused(400, f"an output that there is not; name one of {', '.join(OUTPUTS)}, or none")
    tree["outputs"] = names or OUTPUTS
    return named, tree


def told(served: Served, answers: Sequence[Answer], tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request. Raises Refused where an image could not be read: a tensor has no place for that."""
    for number, answer in enumerate(answers, 1):
        if answer.error:
            raise Refused(500 if answer.failed else 422, f"image {number} of {len(answers)}: {answer.error}")
    data = {
        "probabilities": [q for answer in answers for q in answer.probabilities],
        "predicted": [served.classes[answer.called] for answer in answers],
        "unlike": [-1.0 if answer.unlike is None else answer.unlike for answer in answers],
    }
    outputs = [{**_output(name, served, len(answers)), "data": data[name]} for name in tree["outputs"]]
    own = {"id": tree["id"]} if isinstance(tree.get("id"), str) else {}
    return {"model_name": served.name, "model_version": served.version, **own, "outputs": outputs}


def _output(name: str, served: Served, count: int) -> dict[str, Any]:
    shape = [count, len(served.classes)] if name == "probabilities" else [count]
    return {"name": name, "datatype": "BYTES" if name == "predicted" else "FP64", "shape": shape}
