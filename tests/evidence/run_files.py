"""Runs without a training: the files that a comparison reads, from the reference tables."""

import csv
import json
from pathlib import Path

from training_tools import settings

from cnnjax import config as config_lib
from cnnjax.runs import RunDirectory

TINY = Path(__file__).resolve().parent.parent / "metrics" / "evidence"


def tiny_rows(name: str = "tiny.csv") -> list[list[str]]:
    """The rows of a reference table: id, group, label, predicted, p_pos, p_neg."""
    with open(TINY / name, newline="") as file:
        return [*csv.reader(file)][1:]


def write_run(path: Path, rows: list[list[str]], classes=("pos", "neg"), split: str = "test", **config) -> RunDirectory:
    """A run whose evaluation has `rows`, of which `splits.csv` says that they are its test part."""
    run = RunDirectory(path)
    run.write_json(
        run.config,
        json.loads(
            config_lib.to_json(settings(**{"split__method": "grouped", "data__group": r"^(?P<patient>P\d+)", **config}))
        ),
    )
    run.write_rows(run.splits, ("id", "label", "group", "split"), [(row[0], row[2], row[1], split) for row in rows])
    run.write_rows(run.predictions(split), ("id", "group", "label", "predicted", *(f"p_{name}" for name in classes)), rows)
    confusion = [[sum(row[2] == a and row[3] == b for row in rows) for b in classes] for a in classes]
    right = sum(confusion[i][i] for i in range(len(classes)))
    numbers = {
        "images": len(rows),
        "accuracy": right / max(len(rows), 1),
        "loss": 0.5,
        "auc": 0.8,
        "sensitivity": 0.8,
        "specificity": 0.8,
    }
    run.write_json(run.evaluation(split), {
        "split": split, "step": 1, **numbers, "classes": [*classes], **({"positive": classes[0]} if len(classes) == 2 else {}),
        "confusion": confusion, "per_class": {name: {"images": 1, "precision": 0.8, "recall": 0.8, "f1": 0.8} for name in classes},
        "mistakes": [], "uncertain": []})  # fmt: skip
    return run
