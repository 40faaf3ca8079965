"""Golden numbers: short runs that must not change by accident.

A difference here means that every run of every user trains to other numbers than before, and that a run that was
interrupted does not continue to the result it would have had. If that is intended, say why in the commit, and write the new
numbers with `python tests/test_golden.py`. If it is not, the change has altered a random stream, the order of the images,
the arithmetic of a step, or the evaluation.

Nothing here depends on how files are decoded or resized: the cells are PNG files, resized to the nearest pixel, and the
digits keep their size.
"""

import csv
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = Path(__file__).parent / "golden.json"
# Black pixels are not 0: biases begin as 0, and where a sum is 0 its rounding would decide whether ReLU lets a gradient through.
CELLS = {"data.demo_cells": 400, "data.demo_patients": 8, "image.resize": "nearest", "image.mean": (0.5,) * 3, "image.deviation": (0.5,) * 3,
         "train.epochs": 2, "log.every": 1}  # fmt: skip
RUNS = {
    "cells": ("malaria.py:demo", CELLS),
    "cells by XLA, augmented": ("malaria.py:demo", {**CELLS, "runtime.kernels": "xla", "augment": "strong", "train.ema_decay": 0.9}),
    "cells in bfloat16, augmented": ("malaria.py:demo", {**CELLS, "train.precision": "bfloat16", "augment": "cells"}),
    "digits by resnet18": ("digits.py", {"model.name": "resnet18", "image.size": 8, "data.batch_size": 256, "train.epochs": 1,
                                         "optimizer.name": "adamw", "optimizer.clip_norm": 1.0, "log.every": 1}),
}  # fmt: skip


def train(name: str, place: Path) -> Path:
    """Trains a run of `RUNS` in a directory of `place`."""
    file, overrides = RUNS[name]
    workdir = place / "run"
    own = {"data.cache_dir": str(place / "cache"), "evidence.calibration": "none"}  # probabilities of the training alone
    config = cnnjax.load_config(ROOT / "configs" / file, {**own, **overrides})
    cnnjax.train(config, workdir)
    return workdir


def numbers(workdir: Path) -> dict:
    """Losses of all steps and epochs, and the sum of squares of all test probabilities."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    with open(workdir / "eval" / "test.csv", newline="", encoding="utf-8") as file:
        tested = [[float(v) for k, v in row.items() if k.startswith("p_")] for row in csv.DictReader(file)]
    return {
        "step_losses": [row["loss"] for row in rows if "loss" in row],
        "val_losses": [row["val_loss"] for row in rows if "val_loss" in row],
        "test_probabilities": float(np.square(tested).sum()),
    }


def kind(name: str, workdir: Path) -> str:
    """Names the numbers of a run: processors without instructions for bfloat16 compute more exactly than was asked for."""
    rounds = "bfloat16" in name and json.loads((workdir / "summary.json").read_text())["kernels"].endswith("bf16")
    return "rounded" if rounds else "numbers"


def digest(workdir: Path) -> str:
    """SHA-256 of the numbers of a run, to the last bit; balanced accuracy and logits, which came later, follow from the others."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k not in ("images_per_second", "val_balanced_accuracy")} for row in rows]
    with open(workdir / "eval" / "test.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    table = io.StringIO(newline="")
    csv.writer(table).writerows(
        [cell for name, cell in zip(header, row, strict=True) if name[:2] != "z_"] for row in (header, *rows)
    )
    content = json.dumps(kept).encode() + table.getvalue().encode()
    return hashlib.sha256(content).hexdigest()


def environment(workdir: Path) -> str:
    """Names what the last bits of a run depend on: the processor's instructions and the version of JAX."""
    summary = json.loads((workdir / "summary.json").read_text())
    return f"jax {jax.__version__}, {summary['kernels']}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return ""
    return hashlib.sha256("".join(line for line in lines if line.startswith(("model", "flags"))).encode()).hexdigest()[:12]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("without_pictures")
def test_a_run_gives_its_golden_numbers(name, tmp_path):
    golden = json.loads(NUMBERS.read_text())[name]
    workdir = train(name, tmp_path)
    for key, found in numbers(workdir).items():
        wanted = golden[kind(name, workdir)][key]
        np.testing.assert_allclose(found, wanted, rtol=0.02 if "bfloat16" in name else 2e-3, err_msg=f"{key}: {__doc__}")
    exact = golden["digests"].get(environment(workdir))
    assert exact in (None, digest(workdir)), f"equal to rounding, but not to the last bit. {__doc__}"


def main() -> None:
    """Writes the golden numbers, and the digests of this machine beside those of others."""
    golden = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as place:
            workdir, old = train(name, Path(place)), golden.get(name, {})
            own, found = kind(name, workdir), numbers(workdir)
            digests = old.get("digests", {}) if old.get(own) == found else {}
            golden[name] = {**old, own: found, "digests": {**digests, environment(workdir): digest(workdir)}}
    NUMBERS.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
