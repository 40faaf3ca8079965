"""Runs with an evaluation of drawn images, for tests of evidence and of its pages: no training."""

import json
from pathlib import Path

import numpy as np

from cnnjax import config as config_lib
from cnnjax import metrics
from cnnjax.runs import Evaluation, RunDirectory


def write_run(path: Path, *, classes=2, images=400, groups=40, seed=0) -> RunDirectory:
    """A run with a config and an evaluation of drawn images, as a network would have left them."""
    run, rng = RunDirectory(path), np.random.default_rng(0)
    names = ("=pos", "neg", "c", "d")[:classes]
    labels, own = rng.integers(0, classes, images), rng.integers(0, groups or 1, images)
    rng = np.random.default_rng(seed)  # of the network alone: runs that are compared have the same images
    logits = rng.normal(size=(images, classes)) + 2 * np.eye(classes)[labels]
    p = metrics.probabilities(logits)
    run.write_json(run.config, json.loads(config_lib.to_json(config_lib.Config())))
    numbers = metrics.detailed(logits, labels, names, 0 if classes == 2 else -1)
    run.write_evaluation("test", Evaluation.from_dict({"split": "test", "step": 1, **numbers}))
    header = ("id", "group", "label", "predicted", *(f"p_{name}" for name in names))
    rows = (
        (f"{i}.png", f"P{own[i]}" if groups else "", names[labels[i]], names[p[i].argmax()], *p[i].tolist())
        for i in range(images)
    )
    run.write_rows(run.predictions("test"), header, rows)
    return run
