"""An exported file in a process of its own, without cnnjax: images come by the standard input, probabilities go by the output.

It is started as a script. The first line is {"format", "path", "shape"} as JSON; then, again and again, a number of images (8
bytes, little-endian) and their pixels, for which float32 probabilities and the seconds of the call (float64) are returned.
"""

import json
import struct
import sys
import time

sys.modules["cnnjax"] = None  # that file is to need nothing of it


def onnx(path):
    """Returns the function of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def stablehlo(path):
    """Returns the function of a StableHLO file, on a CPU whatever else is there."""
    import jax
    from jax import export

    jax.config.update("jax_platforms", "cpu")
    with open(path, "rb") as file:
        file.read(int.from_bytes(file.read(8), "little"))
        return jax.jit(export.deserialize(bytearray(file.read())).call)


def litert(path):
    """Returns the function of a LiteRT file, which takes one image at a time."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        found = []
        for image in images:
            interpreter.set_tensor(taken["index"], image[None])
            interpreter.invoke()
            found.append(interpreter.get_tensor(given["index"]))
        return np.concatenate(found)

    return run


def answer(source, target):
    """Answers until the input ends."""
    import numpy as np

    told = json.loads(source.readline())
    run = {"onnx": onnx, "stablehlo": stablehlo, "litert": litert}[told["format"]](told["path"])
    one = int(np.prod(told["shape"]))
    while beginning := source.read(8):
        count = int.from_bytes(beginning, "little")
        images = np.frombuffer(source.read(count * one), np.uint8).reshape(count, *told["shape"])
        start = time.perf_counter()
        p = np.asarray(run(images), np.float32)
        seconds = time.perf_counter() - start
        target.write(p.tobytes() + struct.pack("<d", seconds))
        target.flush()


if __name__ == "__main__":
    answer(sys.stdin.buffer, sys.stdout.buffer)
