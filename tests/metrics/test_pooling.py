"""Predictions of all folds together: values and intervals against their definitions."""

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnjax.metrics import Groups, Predictions, numbers, pooled, scored


def drawn(classes=2, patients=30, images=600, grouped=True) -> tuple[Predictions, np.ndarray, Groups]:
    """Predictions, the fold of each image and the groups, which are patients with a level of their own."""
    rng = np.random.default_rng(0)
    patient = rng.integers(0, patients, images)
    labels = rng.integers(0, classes, images)
    logits = (
        rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels] + rng.normal(size=(patients, classes))[patient]
    )
    groups = Groups.of([f"P{p}" if grouped else "" for p in patient])
    return Predictions(logits, labels, 1 if classes == 2 else -1), patient % 3, groups


def test_orders_are_judged_within_folds_and_all_else_together():
    p, folds, groups = drawn()
    scores, whole = pooled(p, folds, groups), scored(p, groups)
    score = p.margin
    for name, of in {"auc": reference.roc_auc_score, "average_precision": reference.average_precision_score}.items():
        within = [of(p.labels[rows], score[rows]) for rows in (folds == k for k in range(3))]
        assert scores[name].value == pytest.approx(np.mean(within), rel=1e-12) and scores[name] != whole[name]
        assert numbers(p)[name] == pytest.approx(of(p.labels, score), rel=1e-12)
    assert list(scores) == list(whole)
    assert all(scores[name] == whole[name] for name in scores if name not in ("auc", "average_precision"))


@pytest.mark.parametrize(("classes", "names"), [(2, ("auc", "average_precision")), (4, ("macro_auc",))])
@pytest.mark.parametrize("spread", [False, True], ids=["groups in one fold", "groups in several folds"])
def test_standard_errors_are_those_of_leaving_out_one_group_at_a_time(classes, names, spread):
    p, folds, groups = drawn(classes)
    if spread:
        folds = np.arange(600) % 3
    left = []
    for g in range(groups.count):
        rows = groups.index != g
        left.append(pooled(p.kept(rows), folds[rows], Groups.of([groups.names[i] for i in groups.index[rows]])))
    for name in names:
        values = np.array([scores[name].value for scores in left])
        se = np.sqrt((groups.count - 1) / groups.count * ((values - values.mean()) ** 2).sum())
        assert pooled(p, folds, groups)[name].se == pytest.approx(se, rel=1e-9), name


def test_one_fold_alone_is_an_evaluation():
    p, folds, groups = drawn()
    for name, score in pooled(p, np.zeros_like(folds), groups).items():
        one = scored(p, groups)[name]
        assert (score.value, score.se, score.low, score.high) == pytest.approx(
            (one.value, one.se, one.low, one.high), rel=1e-9
        ), name


def test_images_without_groups_are_left_out_one_by_one_or_in_blocks_within_a_fold():
    p, _, groups = drawn(images=3000, grouped=False)
    scores = pooled(p, np.arange(3000) % 3, groups)
    alone = pooled(p, np.arange(3000) % 3, Groups.of([f"P{i}" for i in range(3000)]))
    assert scores["average_precision"].groups == scores["auc"].groups == 3000
    assert scores["auc"].se == alone["auc"].se
    assert scores["average_precision"].se == pytest.approx(alone["average_precision"].se, rel=0.2)


def test_a_fold_without_a_class_has_no_order_and_few_groups_no_interval():
    p, _, groups = drawn()
    single = pooled(p, np.where(p.labels == 0, 0, 1), groups)
    assert single["auc"].value is None and single["auc"].low is None and single["accuracy"].low is not None
    few = pooled(*drawn(patients=9))
    assert "9 groups, of which" in few["auc"].note and few["auc"].low is None
