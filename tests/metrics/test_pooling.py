"""Predictions of all folds together: values and intervals against their definitions."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import t
from sklearn import metrics as reference

from cnnjax.metrics import Groups, Pooled, probabilities, wilson
from cnnjax.metrics.pooling import BLOCKS


def drawn(classes=2, patients=30, images=600, folds=3, grouped=True) -> Pooled:
    rng = np.random.default_rng(0)
    patient = rng.integers(0, patients, images)
    labels = rng.integers(0, classes, images)
    logits = (
        rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels] + rng.normal(size=(patients, classes))[patient]
    )
    groups = Groups.of([f"P{p}" if grouped else "" for p in patient])
    positive = 1 if classes == 2 else -1
    return Pooled(
        probabilities(logits), logits[:, 1] - logits[:, 0], labels, logits.argmax(1), patient % folds, groups, positive
    )


def without(pooled: Pooled, rows: np.ndarray) -> Pooled:
    """The same without some rows."""
    kept = {name: getattr(pooled, name)[~rows] for name in ("probabilities", "margin", "labels", "called", "folds")}
    return dataclasses.replace(
        pooled, **kept, groups=Groups.of([pooled.groups.names[i] for i in pooled.groups.index[~rows]])
    )


def test_values_are_those_of_scikit_learn():
    pooled = drawn()
    scores = {name: score.value for name, score in pooled.scores().items()}
    truth, p = pooled.labels, pooled.probabilities[:, 1]
    within = [[f(truth[rows], p[rows]) for rows in (pooled.folds == k for k in range(3))]
              for f in (reference.roc_auc_score, reference.average_precision_score)]  # fmt: skip
    assert scores == pytest.approx({
        "balanced_accuracy": reference.balanced_accuracy_score(truth, pooled.called),
        "accuracy": reference.accuracy_score(truth, pooled.called),
        "auc": np.mean(within[0]),
        "average_precision": np.mean(within[1]),
        "sensitivity": reference.recall_score(truth, pooled.called),
        "specificity": reference.recall_score(truth, pooled.called, pos_label=0),
        "loss": reference.log_loss(truth, p),
        "brier": reference.brier_score_loss(truth, p),
    })  # fmt: skip
    assert pooled.orders() == pytest.approx(
        {"auc": reference.roc_auc_score(truth, p), "average_precision": reference.average_precision_score(truth, p)}
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_standard_errors_are_those_of_leaving_out_one_group_at_a_time(classes):
    pooled = drawn(classes)
    count = pooled.groups.count
    left = [without(pooled, pooled.groups.index == g).scores() for g in range(count)]
    for name, score in pooled.scores(level=0.9).items():
        values = np.array([scores[name].value for scores in left])
        se = np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
        assert score.se == pytest.approx(se, rel=1e-9), name
        assert 0 < score.low < score.value < score.high and score.groups == count
    loss = pooled.scores(level=0.9)["loss"]
    assert np.log(loss.high / loss.value) == pytest.approx(t.ppf(0.95, loss.df) * loss.se / loss.value)


def test_several_classes_have_no_scores_of_an_order():
    pooled = drawn(4)
    assert list(pooled.scores()) == ["balanced_accuracy", "accuracy", "loss", "brier"] and pooled.orders() == {}
    truth = np.eye(4)[pooled.labels]
    assert pooled.scores()["brier"].value == pytest.approx(((pooled.probabilities - truth) ** 2).sum(1).mean())


def test_without_groups_each_image_is_its_own():
    pooled = drawn(grouped=False)
    scores = pooled.scores()
    right = (pooled.called == pooled.labels).sum()
    assert (scores["accuracy"].low, scores["accuracy"].high) == wilson(right, 600)
    assert scores["average_precision"].groups == BLOCKS and scores["auc"].groups == 600
    assert scores["average_precision"].se == pytest.approx(
        drawn(patients=600, grouped=True).scores()["average_precision"].se, rel=0.5
    )


def test_few_groups_and_a_group_that_decides_are_told():
    assert "9 groups, of which" in drawn(patients=9).scores()["auc"].note
    pooled = drawn()
    alone = dataclasses.replace(pooled, labels=(pooled.groups.index == 0).astype(int), folds=np.zeros(600, int))
    assert alone.scores()["sensitivity"].low is None and "count: too few" in alone.scores()["auc"].note
