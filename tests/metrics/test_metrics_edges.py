"""Metrics where numbers are huge, missing or nearly equal."""

import math

import numpy as np
import pytest

from cnnjax import metrics


def test_the_other_class_as_positive_swaps_sensitivity_and_specificity():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    logits = rng.normal(size=(400, 1)) + 1.5 * (labels[:, None] - 0.3)
    zero, one = (metrics.headline(logits, labels, positive) for positive in (0, 1))
    assert (zero["sensitivity"], zero["specificity"]) == (one["specificity"], one["sensitivity"])
    assert zero["sensitivity"] != zero["specificity"]
    assert zero["auc"] == pytest.approx(one["auc"]) and zero["auc"] > 0.8


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_what_needs_the_missing_class_is_none(present, positive):
    numbers = metrics.headline(np.array([[1.0], [-1.0], [2.0]], np.float32), np.full(3, present), positive)
    missing, other = ("specificity", "sensitivity") if present == positive else ("sensitivity", "specificity")
    assert numbers["auc"] is None and numbers[missing] is None
    assert numbers[other] == pytest.approx(2 / 3 if present == 1 else 1 / 3)


def test_a_ratio_without_a_denominator_is_none():
    per_class = metrics.detailed(np.array([[-5.0], [-5.0]]), np.array([0, 0]), ["a", "b"], 0)["per_class"]
    assert per_class["a"] == {"images": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert per_class["b"] == {"images": 0, "precision": None, "recall": None, "f1": None}


@pytest.mark.parametrize("huge", [1e4, 1e30])
def test_huge_logits_do_not_overflow(huge):
    binary = metrics.headline(np.array([[huge], [-huge], [huge], [-huge]], np.float32), np.array([1, 0, 0, 1]), 1)
    assert binary["loss"] == pytest.approx(huge / 2)
    assert binary["accuracy"] == 0.5
    several = metrics.headline(np.array([[huge, -huge, 0], [0, 0, huge]], np.float32), np.array([1, 2]), -1)
    assert several["loss"] == pytest.approx(huge)
    assert np.isfinite(metrics.probabilities(np.array([[huge], [-huge]]))).all()


def test_perfect_and_inverted_order_have_auc_one_and_zero():
    labels, logits = np.array([0, 0, 1, 1]), np.array([[1.0], [2.0], [3.0], [4.0]])  # all above 0: AUC is about order
    assert metrics.headline(logits, labels, 1)["auc"] == 1.0
    assert metrics.headline(logits, labels, 1)["accuracy"] == 0.5
    assert metrics.headline(-logits, labels, 1)["auc"] == 0.0


@pytest.mark.parametrize("positive", [0, 1])
def test_auc_tells_very_certain_images_apart(positive):
    # In float64 both probabilities of one side are 1.0; the order is known all the same.
    for logits in ([[50.0], [60.0]], [[-60.0], [-50.0]]):
        assert metrics.headline(np.array(logits, np.float32), np.array([0, 1]), positive)["auc"] == 1.0


def test_ties_for_the_fifth_place_count_for_the_true_class():
    names = list("abcdefg")
    assert metrics.detailed(np.zeros((1, 7)), np.array([6]), names, -1)["top5_accuracy"] == 1.0
    assert metrics.detailed(np.arange(7.0)[None], np.array([1]), names, -1)["top5_accuracy"] == 0.0
    assert metrics.detailed(np.arange(7.0)[None], np.array([2]), names, -1)["top5_accuracy"] == 1.0


@pytest.mark.parametrize("value, text", [(None, "-"), (math.nan, "-"), (0.98765, "0.9877"), (1.0, "1.0000")])
def test_a_number_for_people(value, text):
    assert metrics.shown(value) == text
