"""Scores of each example against scikit-learn, and where numbers are huge."""

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnjax import metrics

RNG = np.random.default_rng(0)


def test_auc_of_equal_scores_is_scikit_learns():
    scores, positive = RNG.integers(0, 9, 500).astype(np.float32), RNG.random(500) < 0.3
    assert metrics.auc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores), rel=1e-12)


def test_auc_of_a_score_that_is_nan_is_nan():
    assert np.isnan(metrics.auc(np.array([0.5, np.nan, 1.0]), np.array([True, False, True])))


def test_one_logit_belongs_to_the_second_class():
    assert metrics.probabilities(np.array([[20.0]]))[0, 1] > 0.999


def test_huge_losses_do_not_overflow():
    loss = metrics.cross_entropy(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0]))
    assert loss[0] == 0 and loss[1] == pytest.approx(2e4)
    assert metrics.cross_entropy(np.array([[-3e38]], np.float32), np.array([1]))[0] == pytest.approx(3e38, rel=1e-6)
