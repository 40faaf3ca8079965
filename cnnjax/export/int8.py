"""ONNX with weights and activations of 8 bits, their ranges from training images."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from cnnjax.export.card import KEY
from cnnjax.export.onnx_file import write as write_float
from cnnjax.export.portable import Portable

AT_ONCE = 16  # images of a call that looks for ranges


class _Reader:
    """Gives the calibration images to ONNX Runtime, some at a time."""

    def __init__(self, images: np.ndarray):
        self._parts = iter([images[at : at + AT_ONCE] for at in range(0, len(images), AT_ONCE)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next images; None after the last."""
        part = next(self._parts, None)
        return None if part is None else {"images": part}


def write(portable: Portable, path: Path, calibration: np.ndarray) -> None:
    """Writes a network with QDQ nodes, weights by channel. From the last dense layer on it stays float32: probabilities of 256
    levels would tie.

    Args:
        portable: the network.
        path: of the file.
        calibration: uint8 [n, height, width, 3], training images.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, shaped, quantized = (str(Path(folder, f"{name}.onnx")) for name in ("plain", "shaped", "quantized"))
        write_float(portable, Path(plain))
        quant_pre_process(plain, shaped, skip_optimization=True, skip_symbolic_shape=True)
        nodes = onnx.load(shaped, load_external_data=False).graph.node
        last = max((i for i, node in enumerate(nodes) if node.op_type in ("Gemm", "MatMul")), default=len(nodes))
        quantization.quantize_static(
            shaped, quantized, _Reader(calibration), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[node.name for node in nodes[last:]],
        )  # fmt: skip
        made = onnx.load(quantized)
    del made.metadata_props[:]
    card = dataclasses.replace(portable.card, quantized="int8")
    onnx.helper.set_model_props(made, {KEY: card.to_json()})
    onnx.save(made, path)
