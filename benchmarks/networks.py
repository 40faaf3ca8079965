"""Every network: parameters, operations, and how long a training step and an evaluation take; beside timm's or torchvision's.

    python -m benchmarks.networks --python=/path/to/python
    python -m benchmarks.networks --python=/path/to/python --networks=resnet18,vit_tiny --size=224 --batch=16 --rounds=5

The other Python has torch, torchvision and timm; without it ours is measured alone. Both sides have random images of one size and batch, 1000
classes, float32, AdamW, weights drawn at random; PyTorch has channels-last images and is not compiled, as most people train with it.
An evaluation is a forward pass without gradients. What both compute is the same to 1e-5: tests hold the logits of every network against those
of its reference.

The sides work in turns, in changing order, each a process with `--threads` threads on as many cores, while the other waits. A round is
the mean of three steps after one that is not timed. Prints a table in Markdown, medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measures import answer, in_turns
from benchmarks.sides import environment

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 1000
TIMES = 3  # steps of a round that are timed, after one that is not
SMALL = ("resnet10_half", "resnet18_half")  # without a peer
# Those of timm; of torchvision with its prefix.
PEERS = {
    "resnet18": "resnet18", "resnet34": "resnet34", "resnet50": "resnet50", "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_b0": "efficientnet_b0", "efficientnetv2_s": "torchvision.efficientnet_v2_s",
    "tf_efficientnetv2_s": "tf_efficientnetv2_s", "mobilenetv3_large": "torchvision.mobilenet_v3_large",
    "mobilenetv3_large_100": "mobilenetv3_large_100", "convnext_nano": "convnext_nano", "convnext_tiny": "convnext_tiny",
    "densenet121": "densenet121", "vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224",
    "dinov2_small": "vit_small_patch14_dinov2",
}  # fmt: skip
Work = dict[str, Callable[[], None]]  # "step" and "forward", each once


def own(name: str, size: int, batch: int) -> tuple[Work, dict]:
    """A training step and an evaluation of ours, through the functions of the package; parameters and operations."""
    import jax

    from cnnjax import config as config_lib
    from cnnjax import inference, models, runtime, training

    config = config_lib.default()
    config.model.name, config.image.size, config.data.batch_size, config.optimizer.name = name, size, batch, "adamw"
    config.data.path = "none"
    config = config_lib.finish(config)
    runtime.set_up(config)
    mesh = runtime.mesh()
    plan = training.make_plan(config, mesh, CLASSES, 16 * batch)
    kept = {"state": plan.steps.first()}
    images, labels = drawn(size, batch)
    fed = inference.put({"image": images, "label": labels.astype(np.int32)}, runtime.batched(mesh))
    # A copy: a step uses the memory of the state again.
    model = jax.tree.map(lambda array: array.copy(), {"params": kept["state"].params, "stats": kept["state"].stats})
    engine = inference.Engine(inference.compile_logits(plan.network, mesh), model, mesh)

    def step() -> None:
        kept["state"], _ = plan.steps.at(0)[1](kept["state"], dict(fed), None)
        jax.block_until_ready(kept["state"].step)

    rows = models.table(plan.network.model)
    facts = {"parameters": sum(row.parameters for row in rows), "gflop": sum(row.mflops for row in rows) / 1e3}
    return {"step": step, "forward": lambda: engine.logits(images)}, facts


def peer(name: str, size: int, batch: int) -> tuple[Work, dict]:
    """The same of timm or torchvision."""
    import timm
    import torch
    import torchvision

    if (of := PEERS[name]).startswith("torchvision."):
        model = torchvision.models.get_model(of.removeprefix("torchvision."), num_classes=CLASSES)
    else:
        more = {"img_size": size} if of.startswith("vit") else {}
        model = timm.create_model(of, num_classes=CLASSES, **more)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = map(torch.from_numpy, drawn(size, batch))
    images = images.permute(0, 3, 1, 2)  # channels last already

    def logits() -> "torch.Tensor":
        return model(images.float() / 255)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(), labels).backward()
        optimizer.step()

    def forward() -> None:
        model.eval()
        with torch.inference_mode():
            logits()

    return {"step": step, "forward": forward}, {"parameters": sum(p.numel() for p in model.parameters())}


def drawn(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [batch, size, size, 3] and labels int64 [batch]."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (batch, size, size, 3), np.uint8), random.integers(0, CLASSES, batch)


def work(options) -> None:
    """Is one side: writes what a network is, or the seconds of a round."""

    def begin(name: str) -> tuple[Work, dict]:
        made, facts = (own if options.side == "own" else peer)(name, options.size, options.batch)
        for function in made.values():
            function()
            function()  # what is compiled at the second call is not timed either
        return made, facts

    def again(made: Work) -> dict[str, float]:
        seconds = {}
        for what, function in made.items():
            function()  # the other side has just had the caches
            start = time.perf_counter()
            for _ in range(TIMES):
                function()
            seconds[what] = (time.perf_counter() - start) / TIMES
        return seconds

    answer(options.threads, begin, again)


def compare(options) -> None:
    """Measures one network after the other on both sides in turns, and prints a row for each."""
    sides = {}
    for side, python in (("own", sys.executable), ("peer", options.python)):
        if python:
            command = [
                python,
                __file__,
                f"--side={side}",
                f"--size={options.size}",
                f"--batch={options.batch}",
                f"--threads={options.threads}",
            ]
            sides[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                           env=environment("torch" if side == "peer" else side, options.threads, {"PYTHONPATH": str(ROOT)}))  # fmt: skip

    def ask(side: str, line: str) -> dict:
        print(line, file=sides[side].stdin, flush=True)
        said = sides[side].stdout.readline()
        return (
            json.loads(said)
            if said
            else sys.exit(f"{side} ended with an error at {line or 'a round'}; its messages are above")
        )

    print(
        f"images/s at {options.size} pixels, batches of {options.batch}, {options.threads} threads, medians of {options.rounds} rounds\n"
    )
    print(
        "| network | M parameters | GFLOP | training | peer's | ours is | evaluation | peer's | ours is |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.networks.split(",") if options.networks else [*SMALL, *PEERS]:
        asked = [side for side in sides if side == "own" or name in PEERS]
        size = options.size // 14 * 14 if name.startswith("dinov2") else options.size
        if size != options.size:
            sys.exit(f"{name} takes sizes that are multiples of 14, as --size=224")
        facts = {side: ask(side, name) for side in asked}
        if len(asked) == 2 and facts["own"]["parameters"] != facts["peer"]["parameters"]:
            sys.exit(f"{name}: {facts['own']['parameters']:,} parameters, the peer has {facts['peer']['parameters']:,}")
        seconds = in_turns({side: sides[side] for side in asked}, options.rounds, "")
        cells = [name, f"{facts['own']['parameters'] / 1e6:.1f}", f"{facts['own']['gflop']:.2f}"]
        for what in ("step", "forward"):
            speed = {side: options.batch / statistics.median(round[what] for round in seconds[side]) for side in asked}
            beside = [f"{speed['peer']:.1f}", f"{speed['own'] / speed['peer']:.2f}"] if "peer" in speed else ["", ""]
            cells += [f"{speed['own']:.1f}", *beside]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="", help="of PyTorch")
    parser.add_argument("--networks", default="", help="names, with commas between them; all of them")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side", choices=("own", "peer"))
    given = parser.parse_args()
    if unknown := set(filter(None, given.networks.split(","))) - {*SMALL, *PEERS}:
        parser.error(
            f"--networks={given.networks}: {min(unknown)} is not measured; use some of {', '.join([*SMALL, *PEERS])}"
        )
    work(given) if given.side else compare(given)
