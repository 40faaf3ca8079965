"""LiteRT, the .tflite files of mobile devices, through TensorFlow's converter, which an extra brings."""

from pathlib import Path

import numpy as np

from cnnjax.errors import ConfigError
from cnnjax.export.portable import Portable


def write(portable: Portable, path: Path, calibration: np.ndarray | None = None) -> None:
    """Writes a network for one image at a time: uint8 [1, height, width, 3] -> float32 [1, classes].

    Args:
        portable: the network.
        path: of the file.
        calibration: uint8 [n, height, width, 3], training images by which weights and activations become int8; None: float32.

    Raises:
        ConfigError: TensorFlow cannot convert a layer of the network.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    shape = (1, *portable.card.shape, 3)
    function = tf.function(
        jax2tf.convert(portable.function), autograph=False, input_signature=[tf.TensorSpec(shape, tf.uint8, "images")]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    try:
        content = converter.convert()
    except Exception as error:  # ConverterError and others, with pages of MLIR
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"--format=litert: TensorFlow cannot convert this network ({reason}); use --format=onnx, which runs on phones too"
        ) from None
    with open(path, "wb") as file:
        file.write(content)
