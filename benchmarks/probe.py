"""A linear probe of EfficientNet-Lite0: features of photos, then a logistic regression for each penalty; cnnjax beside PyTorch.

    python -m benchmarks.probe --torch=/path/to/python
    python -m benchmarks.probe --torch=/path/to/python --size=160 --images=256 --rounds=5

The other Python has torch, timm, safetensors and scikit-learn. Both sides have the same random weights, which the first writes and the second
loads by `model.weights`, and the same random images; they must give the same features to 1e-4. PyTorch has channels-last images, and
`inference_mode`. The sides work in turns, each a process of its own with `--threads` threads, while the other waits. Decoding is not a part
of it. Prints medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measures import in_turns
from benchmarks.sides import environment

ROOT = Path(__file__).resolve().parents[1]
CLASSES, BATCH = 5, 32
PENALTIES = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)


def drawn(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count, size, size, 3] of one colour each with noise, and labels int [count] that the colours tell of."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, count)
    colours = random.integers(40, 215, (CLASSES, 3))[labels] + random.normal(0, 20, (count, 3))
    noise = 30 * random.standard_normal((count, size, size, 3), np.float32)
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def torch_side(weights: str, threads: int):
    """Writes random weights; returns features of images, and a fit of all penalties, by timm and scikit-learn."""
    import timm
    import torch
    from safetensors.torch import save_file
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES).eval()
    save_file({name: array.contiguous() for name, array in model.state_dict().items()}, weights)
    model.reset_classifier(0)
    model = model.to(memory_format=torch.channels_last)

    def features(images: np.ndarray) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for at in range(0, len(images), BATCH):
                x = torch.from_numpy(images[at : at + BATCH]).permute(0, 3, 1, 2)  # channels last already
                found.append(model((x.float() / 255 - 0.5) / 0.5).numpy())
        return np.concatenate(found)

    def fit(found: np.ndarray, labels: np.ndarray) -> None:
        x, solver = StandardScaler().fit_transform(found), LogisticRegression(max_iter=1000, warm_start=True)
        for penalty in PENALTIES:
            solver.set_params(C=1 / penalty).fit(x, labels)

    return features, fit


def own_side(weights: str, size: int):
    """Returns the same of cnnjax."""
    import jax
    from flax import traverse_util
    from threadpoolctl import threadpool_limits

    from cnnjax import config as config_lib
    from cnnjax import inference, runtime, training
    from cnnjax.training.logistic import Regression
    from cnnjax.weights import load

    config = config_lib.default()
    config.model.name, config.model.weights, config.image.size = "efficientnet_lite0", weights, size
    config.image.mean = config.image.deviation = (0.5, 0.5, 0.5)
    config.data.path, config.train.method, config.data.batch_size = "none", "probe", BATCH
    config = config_lib.finish(config)
    runtime.set_up(config)
    mesh = runtime.mesh()
    plan = training.make_plan(config, mesh, CLASSES, 0)
    state = plan.steps.first()
    matched, _ = load(config, plan.network)
    own = traverse_util.flatten_dict({"params": state.params, "stats": state.stats})
    loaded = {path: matched.arrays[path[1:]] for path in own}
    model = jax.device_put(traverse_util.unflatten_dict(loaded), runtime.replicated(mesh))
    engine = inference.Engine(plan.steps.features, model, mesh)

    def features(images: np.ndarray) -> np.ndarray:
        return engine.logits_of_rows(images, np.arange(len(images)), BATCH)

    def fit(found: np.ndarray, labels: np.ndarray) -> None:
        with threadpool_limits(1):
            regression = Regression(found, labels, CLASSES, np.ones(len(labels)))
            for penalty in PENALTIES:
                regression.fit(penalty)

    return features, fit


def work(options) -> None:
    """Is one side: writes the features of the first images, then the seconds of each round that it is asked for."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    if options.side == "torch":
        features, fit = torch_side(options.weights, options.threads)
    else:
        features, fit = own_side(options.weights, options.size)
    images, labels = drawn(options.images, options.size)
    print(json.dumps(features(images[:BATCH])[:4].tolist()), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        found = features(images)
        between = time.perf_counter()
        fit(found, labels)
        print(json.dumps([between - start, time.perf_counter() - between]), file=answers, flush=True)


def compare(options) -> None:
    """Starts both sides, holds their features against each other, and measures them in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sides, first = {}, {}
        for side, python in (("torch", options.torch), ("cnnjax", sys.executable)):  # torch writes the weights
            command = [python, __file__, f"--side={side}", f"--weights={folder}/weights.safetensors", f"--size={options.size}",
                       f"--images={options.images}", f"--threads={options.threads}"]  # fmt: skip
            sides[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                           env=environment(side, options.threads, {"PYTHONPATH": str(ROOT)}))  # fmt: skip
            first[side] = np.array(json.loads(sides[side].stdout.readline()))
        apart = np.abs(first["torch"] - first["cnnjax"]).max() / np.abs(first["torch"]).max()
        if not apart < 1e-4:
            sys.exit(f"the sides do not compute the same: features differ by {apart:.1e}")
        seconds = in_turns(sides, options.rounds, "go")
        for process in sides.values():
            process.stdin.close()
            process.wait()
    middle = {side: [statistics.median(part) for part in zip(*rounds, strict=True)] for side, rounds in seconds.items()}
    print(
        f"{options.images} images of {options.size} pixels, medians of {options.rounds} rounds; features differ by {apart:.0e}"
    )
    for side, (features, fit) in middle.items():
        print(
            f"{side:<7} features {features:7.2f} s ({options.images / features:5.1f} images/s), {len(PENALTIES)} penalties {fit:6.2f} s"
        )
    ratios = [sum(torch) / sum(ours) for torch, ours in zip(seconds["torch"], seconds["cnnjax"], strict=True)]
    print(f"cnnjax is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """Parses the flags; with --side it is one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default=sys.executable, help="a Python with torch, timm, safetensors and scikit-learn")
    parser.add_argument("--size", type=int, default=224, help="pixels, height and width")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    (work if options.side else compare)(options)


if __name__ == "__main__":
    main()
