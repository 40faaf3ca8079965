"""Confident learning as a reference has it, and the predictions that it reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from cnnjax import audit, runs
from cnnjax.errors import CheckpointError, DataError

TINY = json.loads((Path(__file__).parent / "tiny_labels.json").read_text())
HEADER = ("id", "group", "label", "predicted", "z_a", "z_b", "p_a", "p_b")


def test_confident_learning_gives_the_numbers_of_the_reference():
    """From cleanlab 2.9.0 on 40 images of three classes."""
    found = audit.confident(np.array(TINY["labels"]), np.array(TINY["probabilities"]))
    np.testing.assert_allclose(found.thresholds, TINY["thresholds"], rtol=0, atol=1e-9)
    assert found.joint.tolist() == TINY["confident_joint"] and found.suspects.tolist() == TINY["issues"]
    assert found.noise == pytest.approx(TINY["estimated_noise"], abs=1e-9)


def test_suspects_are_flipped_labels_and_a_class_without_images_does_no_harm():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 1000)
    p = np.clip(np.where(truth, 0.9, 0.1) + rng.normal(0, 0.1, 1000), 0.01, 0.99)
    flipped = rng.choice(1000, 30, replace=False)
    labels = truth.copy()
    labels[flipped] ^= 1
    found = audit.confident(labels, np.stack([1 - p, p, np.zeros(1000)], 1))
    assert len(found.suspects) >= 10 and set(found.suspects.tolist()) <= set(flipped.tolist())


def rows(number, fold=""):
    for i in range(number):
        yield (f"{fold}{i}.png", f"g{i}", "ab"[i % 2], "a", 0.1, -0.1, 0.75, 0.25)


def test_predictions_are_out_of_fold_else_of_validation_and_test(tmp_path):
    run = runs.RunDirectory(tmp_path)
    with pytest.raises(DataError, match="has no predictions of images that it was not trained on; train it first"):
        audit.read_predictions(run)
    for name in ("train", "val", "test"):
        run.write_rows(run.predictions(name), HEADER, rows(4, name))
    told = audit.read_predictions(run)
    assert told.source == "eval/val.csv and eval/test.csv" and len(told.ids) == 8 and told.classes == ("a", "b")
    assert told.probabilities.tolist() == [[0.75, 0.25]] * 8 and told.labels.tolist() == [0, 1] * 4
    run.write_rows(run.predictions("oof"), HEADER, [*rows(3), ("0.png", "g0", "a", "a", 0, 0, 0.25, 0.75)])
    told = audit.read_predictions(run)  # of an image in two repeats, the mean
    assert told.source == "eval/oof.csv" and told.probabilities[0].tolist() == [0.5, 0.5] and len(told.ids) == 3
    run.write_rows(run.predictions("oof"), HEADER, [("0.png", "g0", "c", "a", 0, 0, "x", 1)])
    with pytest.raises(CheckpointError, match="damaged"):
        audit.read_predictions(run)
