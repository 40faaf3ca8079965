"""Depthwise convolutions alone: forward, and forward with both gradients; cnnjax beside PyTorch and ONNX Runtime.

    python -m benchmarks.depthwise --torch=/path/to/python
    python -m benchmarks.depthwise --torch=/path/to/python --layers=56x144x5x2,7x1152x5x1 --rounds=9

A layer is pixels of a side, channels, pixels of the kernel, stride: those of EfficientNet and ConvNeXt at 224 pixels. The other Python has torch and
onnxruntime, this one onnx. All sides have the same float32 images and weights, and must give the same numbers to 1e-4. PyTorch has its faster of
two layouts, channels last or first, for each number by itself, and keeps freed memory. ONNX Runtime has channels first, as its files have them, and
computes no gradients. The sides work in turns, each a process with `--threads` threads. Prints a table in Markdown, medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measures import answer, in_turns
from benchmarks.sides import environment

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("112x32x3x1", "112x96x3x2", "56x144x3x1", "56x144x5x2", "28x240x5x1", "14x480x3x1", "14x672x5x1", "7x1152x5x1", "56x96x7x1",
          "14x384x7x1")  # fmt: skip
Side = dict[str, Callable[[], np.ndarray]]  # what is timed -> does it, and returns some of its numbers


def drawn(layer: str, batch: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Images float32 [batch, size, size, channels], weights float32 [kernel, kernel, channels], and the stride."""
    size, channels, kernel, stride = map(int, layer.split("x"))
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, size, size, channels), np.float32)
    return images, random.standard_normal((kernel, kernel, channels), np.float32), stride


def own(layer: str, batch: int, folder: str) -> Side:
    """Returns the work of cnnjax."""
    import jax
    import jax.numpy as jnp

    from cnnjax import config as config_lib
    from cnnjax import runtime

    config = config_lib.default()
    config.data.path = "none"
    config = config_lib.finish(config)
    runtime.set_up(config)
    ops = runtime.ops(config.runtime, "cpu")
    images, weights, stride = drawn(layer, batch)
    x, w = jax.device_put(images), jax.device_put(weights[:, :, None])
    layer_of = jax.jit(lambda x, w: ops.depthwise(x, w, stride=stride, padding=len(weights) // 2, dtype=jnp.float32))
    both = jax.jit(jax.grad(lambda x, w, y: jnp.vdot(layer_of(x, w), y), (0, 1)))
    given = layer_of(x, w)

    def step() -> np.ndarray:
        jax.block_until_ready(layer_of(x, w))
        return np.asarray(jax.block_until_ready(both(x, w, given))[1]).ravel()

    return {"forward": lambda: np.asarray(jax.block_until_ready(layer_of(x, w)))[0, 0].ravel(), "step": step}


def torch_side(layer: str, batch: int, folder: str, *, last: bool) -> Side:
    """Returns the work of PyTorch, in one layout."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images, weights, stride = drawn(layer, batch)
    memory = torch.channels_last if last else torch.contiguous_format
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory).requires_grad_()
    w = torch.from_numpy(weights).permute(2, 0, 1)[:, None].contiguous(memory_format=memory).requires_grad_()

    def forward() -> torch.Tensor:
        return F.conv2d(x, w, stride=stride, padding=len(weights) // 2, groups=len(w))

    def plain() -> np.ndarray:
        with torch.inference_mode():
            return forward()[0, :, 0].T.numpy().ravel()

    given = forward().detach()

    def step() -> np.ndarray:
        return torch.autograd.grad(forward(), (x, w), given)[1][:, 0].permute(1, 2, 0).numpy().ravel()

    return {"forward": plain, "step": step}


def ort(layer: str, batch: int, folder: str) -> Side:
    """Returns the work of ONNX Runtime, of a file that `write` has made."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(f"{folder}/{layer}.onnx", options, providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray(drawn(layer, batch)[0].transpose(0, 3, 1, 2))
    return {"forward": lambda: session.run(None, {"x": x})[0][0, :, 0].T.ravel()}


def write(layer: str, batch: int, folder: str) -> None:
    """Writes a layer as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    _, weights, stride = drawn(layer, batch)
    half, channels = len(weights) // 2, weights.shape[2]
    kernel = numpy_helper.from_array(np.ascontiguousarray(weights.transpose(2, 0, 1)[:, None]), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=channels, pads=[half] * 4, strides=[stride] * 2)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("x", "y")]
    graph = helper.make_graph([node], "layer", ends[:1], ends[1:], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), f"{folder}/{layer}.onnx")


SIDES: dict[str, Callable[[str, int, str], Side]] = {
    "cnnjax": own,
    "torch": lambda *of: torch_side(*of, last=False),
    "torch-last": lambda *of: torch_side(*of, last=True),
    "ort": ort,
}


def work(options) -> None:
    """Is one side: writes some of the numbers of a layer, or the milliseconds of a round."""

    def begin(layer: str) -> tuple[Side, dict]:
        made = SIDES[options.side](layer, options.batch, options.folder)
        return made, {what: function()[:64].tolist() for what, function in made.items()}

    answer(options.threads, begin, lambda made: {what: _milliseconds(function) for what, function in made.items()})


def _milliseconds(function: Callable, seconds: float = 0.15) -> float:
    """Returns the median time of one call, of as many as take some time."""
    function(), function()
    taken: list[float] = []
    while sum(taken) < seconds:
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def compare(options) -> None:
    """Starts all sides, holds their numbers against each other, and measures them in turns, layer by layer."""
    print(
        "| layer | forward, ms | PyTorch | ONNX Runtime | ours is | with both gradients, ms | PyTorch | ours is |\n"
        + "|---" * 8
        + "|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for side in SIDES:
            command = [sys.executable if side == "cnnjax" else options.torch, __file__, f"--side={side}", f"--batch={options.batch}",
                       f"--threads={options.threads}", f"--folder={folder}"]  # fmt: skip
            environ = environment(side.removesuffix("-last"), options.threads, {"PYTHONPATH": str(ROOT)})
            sides[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        for layer in options.layers.split(","):
            write(layer, options.batch, folder)
            first = {}
            for side, process in sides.items():
                print(layer, file=process.stdin, flush=True)
                if not (said := process.stdout.readline()):
                    sys.exit(
                        f"{side} did not compute {layer}: the lines above say why; --torch=PYTHON has torch and onnxruntime, a layer is as 56x144x5x2"
                    )
                first[side] = json.loads(said)
            for side, what in [(side, what) for side, found in first.items() for what in found]:
                right, given = np.array(first["torch"][what]), np.array(first[side][what])
                if not np.abs(right - given).max() < 1e-4 * np.abs(right).max():
                    sys.exit(f"{layer}: {side} does not compute the same, {what}")
            print(_row(layer, in_turns(sides, options.rounds, "")), flush=True)


def _row(layer: str, rounds: dict[str, list[dict[str, float]]]) -> str:
    middle = {
        (side, what): statistics.median(found[what] for found in given)
        for side, given in rounds.items()
        for what in given[0]
    }
    peers = [min(middle["torch", what], middle["torch-last", what]) for what in ("forward", "step")]
    ours, step, ort_takes = middle["cnnjax", "forward"], middle["cnnjax", "step"], middle["ort", "forward"]
    size, channels, kernel, stride = layer.split("x")
    return (f"| {size} x {size}, {channels} channels, {kernel} x {kernel}, stride {stride} | {ours:.2f} | {peers[0]:.2f} | {ort_takes:.2f} | "
            f"{min(peers[0], ort_takes) / ours:.2f} | {step:.2f} | {peers[1]:.2f} | {peers[1] / step:.2f} |")  # fmt: skip


def main() -> None:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="Python of an environment with torch and onnxruntime")
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side", default="", choices=["", *SIDES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    work(flags) if flags.side else compare(flags)


if __name__ == "__main__":
    main()
