"""Numbers against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnjax import metrics

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c", "d", "e", "f", "g")


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_numbers_are_scikit_learns(classes):
    labels = RNG.integers(0, classes, 300)
    logits = RNG.standard_normal((300, 1 if classes == 2 else classes)).astype(np.float32) * 2
    p = metrics.probabilities(logits)
    result = metrics.detailed(logits, labels, NAMES[:classes], 0 if classes == 2 else -1)
    assert np.allclose(p.sum(1), 1)
    assert result["images"] == 300
    assert result["loss"] == pytest.approx(reference.log_loss(labels, p))
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(labels, p.argmax(1)))
    assert result["confusion"] == reference.confusion_matrix(labels, p.argmax(1)).tolist()
    scores = reference.precision_recall_fscore_support(labels, p.argmax(1))
    for i, name in enumerate(NAMES[:classes]):
        ours = result["per_class"][name]
        assert (ours["precision"], ours["recall"], ours["f1"], ours["images"]) == pytest.approx([s[i] for s in scores])
    assert ("top5_accuracy" in result) == (classes > 5)
    if classes > 5:
        assert result["top5_accuracy"] == pytest.approx(reference.top_k_accuracy_score(labels, p, k=5))


@pytest.mark.parametrize("positive", [0, 1])
def test_two_class_numbers_are_of_the_positive_class(positive):
    labels, logits = RNG.integers(0, 2, 200), RNG.standard_normal((200, 1))
    numbers = metrics.headline(logits, labels, positive)
    p = metrics.probabilities(logits)
    called = p.argmax(1)
    assert numbers["auc"] == pytest.approx(reference.roc_auc_score(labels == positive, p[:, positive]))
    assert numbers["sensitivity"] == pytest.approx(reference.recall_score(labels, called, pos_label=positive))
    assert numbers["specificity"] == pytest.approx(reference.recall_score(labels, called, pos_label=1 - positive))


def test_auc_of_equal_scores_is_scikit_learns():
    scores, positive = RNG.integers(0, 9, 500).astype(np.float32), RNG.random(500) < 0.3
    assert metrics.auc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores), rel=1e-12)


def test_auc_of_what_is_no_number_is_none():
    assert np.isnan(metrics.auc(np.array([0.5, np.nan, 1.0]), np.array([True, False, True])))


def test_numbers_do_not_depend_on_the_parts_they_are_computed_in(monkeypatch):
    labels, logits = RNG.integers(0, 7, 300), RNG.standard_normal((300, 7)).astype(np.float32)
    whole = metrics.detailed(logits, labels, NAMES, -1)
    monkeypatch.setattr(metrics, "NUMBERS", 70)
    assert metrics.detailed(logits, labels, NAMES, -1) == whole


def test_one_logit_is_of_the_second_class():
    assert metrics.probabilities(np.array([[20.0]]))[0, 1] > 0.999


def test_numbers_that_need_both_classes_are_none_without():
    numbers = metrics.headline(np.array([[1.0], [-1.0]]), np.array([1, 1]), 1)
    assert numbers["auc"] is None and numbers["specificity"] is None and numbers["sensitivity"] == 0.5
    assert metrics.detailed(np.array([[9.0, 0, 0]]), np.array([0]), "abc", -1)["per_class"]["b"]["recall"] is None


def test_huge_logits_do_not_overflow():
    loss = metrics.cross_entropy(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0]))
    assert loss[0] == 0 and loss[1] == pytest.approx(2e4)
    assert metrics.cross_entropy(np.array([[-3e38]], np.float32), np.array([1]))[0] == pytest.approx(3e38, rel=1e-6)
