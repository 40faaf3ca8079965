"""Predictions for tests of evidence: the reference table, whose numbers were computed twice, and drawn ones."""

import csv
import json
from pathlib import Path

import numpy as np

from cnnjax import metrics
from cnnjax.metrics import Groups

EVIDENCE = Path(__file__).parent / "metrics" / "evidence"
EXPECTED = json.loads((EVIDENCE / "tiny_expected.json").read_text())


def reference():
    """60 images of 12 patients: probabilities, whether positive, and groups."""
    with open(EVIDENCE / "tiny.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    p = np.array([float(row["p_pos"]) for row in rows])
    return p, np.array([row["label"] == "pos" for row in rows]), Groups.of([row["group"] for row in rows], "patient")


def drawn(images=2000, patients=40, sharp=2.0, classes=1, seed=0):
    """Logits that are `sharp` times too large, labels and patients."""
    random = np.random.default_rng(seed)
    names = [f"P{i:02}" for i in np.sort(random.integers(0, patients, images))]
    z = random.normal(0, 2, (images, classes))
    p = metrics.probabilities(z)
    labels = (p.cumsum(1) < random.random((images, 1))).sum(1)
    return sharp * z, labels, Groups.of(names, "patient")
