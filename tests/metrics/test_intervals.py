"""Intervals of every metric: reference values, DeLong's error, order, degenerate sets."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnjax import metrics
from cnnjax.metrics.estimators import ByDeletion, CalibrationError, estimator
from cnnjax.metrics.intervals import rows

FOLDER = Path(__file__).parent / "evidence"
EXPECTED = json.loads((FOLDER / "tiny_expected.json").read_text())
NAMES = {"balanced": "balanced_accuracy", "ppv_prev": "stated_ppv", "npv_prev": "stated_npv", "ap": "average_precision"}


def tiny(file="tiny.csv") -> tuple[metrics.Predictions, metrics.Groups]:
    """60 images of 12 patients, at a stated prevalence of 0.035."""
    with open(FOLDER / file, newline="", encoding="utf-8") as opened:
        table = list(csv.DictReader(opened))
    p = np.array([[float(row["p_pos"]), float(row["p_neg"])] for row in table])
    labels = np.array([0 if row["label"] == "pos" else 1 for row in table])
    called = np.where(p[:, 0] >= 0.5, 0, 1)
    groups = metrics.Groups.of([row["group"] for row in table], "patient")
    return metrics.Predictions(np.log(p), labels, 0, calibrated=p, decided=called, prevalence=0.035), groups


def drawn(n=300, classes=2, groups=30, seed=0) -> tuple[metrics.Predictions, metrics.Groups]:
    """Images with logits that tell something, in groups of uneven size; 0 groups: none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    names = [f"P{min(int(g), groups - 1):03}" for g in rng.exponential(groups / 2, n)] if groups else [""] * n
    return metrics.Predictions(logits, labels, 1 if classes == 2 else -1), metrics.Groups.of(names)


@pytest.mark.parametrize("name", [name for name in EXPECTED["default_interval"] if name not in ("ece", "ppv", "npv")])
def test_every_interval_is_the_reference(name):
    ours, expected = metrics.scored(*tiny())[NAMES.get(name, name)], EXPECTED["default_interval"][name]
    assert (ours.value, ours.se, ours.effective, ours.df, ours.low, ours.high) == pytest.approx(
        [expected[key] for key in ("estimate", "se", "kish", "df", "low", "high")], abs=1e-9)  # fmt: skip
    assert ours.groups == 12


@pytest.mark.parametrize("name", ["ppv", "npv"])
def test_predictive_values_of_the_set_are_the_reference(name):
    ours, expected = metrics.scored(*tiny())[name], EXPECTED["default_interval"][name]
    assert (ours.value, ours.se, ours.low, ours.high) == pytest.approx(
        [expected[k] for k in ("estimate", "se", "low", "high")], abs=1e-9
    )


def test_the_calibration_error_of_five_bins_is_the_reference():
    row = metrics.Metric("", CalibrationError(5), link="identity", counting="images", bounded=True)
    ours, expected = metrics.score(row, *tiny()), EXPECTED["default_interval"]["ece"]
    assert (ours.value, ours.se, ours.df, ours.low, ours.high) == pytest.approx(
        [expected[key] for key in ("estimate", "se", "df", "low", "high")], abs=1e-9)  # fmt: skip


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("groups", [30, 0])
def test_quick_ways_are_those_of_deleting_each_group(classes, groups):
    p, groups = drawn(n=120, classes=classes, groups=groups)
    if p.classes == 2:
        p = metrics.Predictions(p.logits, p.labels, 1, prevalence=0.1)
    for name, row in rows(p).items():
        if name == "ece":  # its bins are those of all images
            continue
        assert metrics.without(row, p, groups) == pytest.approx(
            ByDeletion(row.of).without(p, groups), abs=1e-9, nan_ok=True
        ), name


@pytest.mark.parametrize("classes", [2, 4])
def test_values_are_scikit_learns(classes):
    p, groups = drawn(classes=classes)
    called, q = p.logits.argmax(1), metrics.probabilities(p.logits)
    found = {name: score.value for name, score in metrics.scored(p, groups).items()}
    expected = {
        "mcc": reference.matthews_corrcoef(p.labels, called), "kappa": reference.cohen_kappa_score(p.labels, called),
        "log_loss": reference.log_loss(p.labels, q),
    }  # fmt: skip
    if classes == 2:
        expected |= {"f1": reference.f1_score(p.labels, called), "brier": reference.brier_score_loss(p.labels, q[:, 1]),
                     "average_precision": reference.average_precision_score(p.labels, q[:, 1])}  # fmt: skip
    else:
        expected |= {"macro_f1": reference.f1_score(p.labels, called, average="macro"),
                     "macro_auc": reference.roc_auc_score(p.labels, q, multi_class="ovr"),
                     "brier": ((q - np.eye(classes)[p.labels]) ** 2).sum(1).mean()}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_classes_have_the_numbers_of_the_table_and_intervals(classes):
    p, groups = drawn(classes=classes)
    table = metrics.detailed(p.logits, p.labels, "abcd"[:classes], p.positive)["per_class"]
    for own, known in zip(metrics.scored_classes(p, groups), table.values(), strict=True):
        assert {name: own[name].value for name in ("recall", "precision", "f1")} == pytest.approx(
            {name: known[name] for name in ("recall", "precision", "f1")})  # fmt: skip
        assert all(score.low < score.value < score.high for score in own.values())
    if classes == 2:
        assert own["auc"] == metrics.scored(p, groups)["auc"] and own["recall"] == metrics.scored(p, groups)["sensitivity"]


def test_without_groups_the_error_of_auc_is_delongs():
    p, groups = drawn(n=2000, groups=0)
    positive, scores = p.is_positive, p.margin
    wins = (scores[positive][:, None] > scores[~positive]).astype(float)
    delong = math.sqrt(wins.mean(1).var(ddof=1) / positive.sum() + wins.mean(0).var(ddof=1) / (~positive).sum())
    assert metrics.scored(p, groups)["auc"].se == pytest.approx(delong, rel=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("groups, n", [(30, 300), (0, 300), (0, 900)])
def test_the_order_of_images_and_the_names_of_groups_change_nothing(classes, groups, n):
    p, own = drawn(n=n, classes=classes, groups=groups)
    order = np.random.default_rng(1).permutation(n)
    names = [own.names[i][::-1] for i in own.index[order]]
    told, again = metrics.scored(p, own), metrics.scored(p.kept(order), metrics.Groups.of(names))
    for name in told:
        assert (told[name].low, told[name].high) == pytest.approx((again[name].low, again[name].high), abs=1e-12), name


def degenerate(kind: str) -> tuple[metrics.Predictions, metrics.Groups]:
    p, groups = drawn(n=120, groups=9 if kind == "nine groups" else 30)
    if kind == "one group":
        groups = metrics.Groups.of(["P"] * 120)
    elif kind == "one class":
        p = metrics.Predictions(p.logits, np.ones(120, int), 1)
    elif kind == "perfect":
        p = metrics.Predictions(np.eye(2)[p.labels] * 9, p.labels, 1)
    elif kind == "one image":
        p, groups = p.kept(np.arange(1)), metrics.Groups.of([""])
    elif kind == "one holds a class":
        p = metrics.Predictions(p.logits, (groups.index == 3).astype(int), 1)
    return p, groups


@pytest.mark.parametrize("kind", ["one group", "nine groups", "one class", "perfect", "one image", "one holds a class"])
def test_a_degenerate_set_has_reasons_in_place_of_intervals(kind):
    p, groups = degenerate(kind)
    found = metrics.scored(p, groups)
    json.dumps({name: score.to_dict() for name, score in found.items()}, allow_nan=False)
    for score in (*found.values(), *(score for own in metrics.scored_classes(p, groups) for score in own.values())):
        assert score.note or score.low is not None
        assert metrics.score_text(score, groups.unit)
    if kind in ("one group", "nine groups"):
        assert "too few for an interval" in found["accuracy"].note and found["accuracy"].low is None
    if kind == "perfect":
        assert found["accuracy"].method == "bound" and found["accuracy"].high is None and found["accuracy"].low > 0.8
        assert metrics.interval_text(found["accuracy"]).startswith("at least 0.")
    if kind == "one class":
        assert found["auc"].value is None and found["specificity"].value is None
    if kind == "one holds a class":
        assert found["auc"].note and found["auc"].low is None


def test_proportions_without_groups_have_wilsons_interval():
    p, groups = drawn(groups=0)
    found = metrics.scored(p, groups)
    for name, count in {"accuracy": 300, "sensitivity": p.is_positive.sum(), "specificity": (~p.is_positive).sum()}.items():
        assert found[name].method == "wilson"
        assert (found[name].low, found[name].high) == metrics.wilson(round(found[name].value * count), count)
    assert found["auc"].method == "jackknife"


def test_intervals_as_text():
    p, groups = tiny()
    found = metrics.scored(p, groups)
    assert metrics.score_text(found["accuracy"], "patient") == "0.767 (0.621 to 0.868; 12 patients, 11 count)"
    assert metrics.score_text(found["auc"], "patient") == "0.872 (0.684 to 0.956 !; 12 patients, 6.9 count)"
    few = metrics.scored(
        p.kept(groups.index < 4), metrics.Groups.of(np.array(groups.names)[groups.index[groups.index < 4]], "patient")
    )
    assert metrics.score_text(few["accuracy"], "patient").endswith(
        "(4 patients, of which 3.9 count: too few for an interval; it takes 10, and 5 that count)"
    )


def test_a_wider_level_gives_a_wider_interval():
    p, groups = drawn()
    narrow, wide = metrics.scored(p, groups, level=0.8), metrics.scored(p, groups, level=0.99)
    assert all(wide[name].low < narrow[name].low < narrow[name].high < wide[name].high for name in narrow if name != "ece")


@pytest.mark.slow
def test_coverage_of_the_default_and_of_intervals_over_images():
    rng = np.random.default_rng(0)
    hits = {"default": 0, "wilson": 0}
    for _ in range(200):
        share = 1 / (1 + np.exp(-rng.normal(2.4, 1.2, 30)))  # of right images, patient by patient
        size = rng.integers(20, 200, 30)
        right = np.concatenate([rng.random(n) < s for n, s in zip(size, share, strict=True)])
        labels = np.concatenate([rng.integers(0, 2, n) for n in size])
        p = metrics.Predictions(np.eye(2)[np.where(right, labels, 1 - labels)], labels, 1)
        truth = (1 / (1 + np.exp(-np.random.default_rng(1).normal(2.4, 1.2, 100_000)))).mean()
        for kind, names in (("default", np.repeat([f"P{i}" for i in range(30)], size)), ("wilson", [""] * len(labels))):
            found = metrics.score(metrics.METRICS["accuracy"], p, metrics.Groups.of(names))
            hits[kind] += found.low <= truth <= found.high
    assert hits["default"] >= 0.9 * 200 and hits["wilson"] < 0.7 * 200, hits


def test_a_plain_function_has_an_interval_too():
    p, groups = drawn(n=900, groups=0)
    row = metrics.Metric("share of the first class", lambda p: float((p.called == 0).mean()))
    found = metrics.score(row, p, groups)
    assert len(estimator(row.of).without(p, groups)) == 200 and found.groups == 900
    assert found.se == pytest.approx(math.sqrt(found.value * (1 - found.value) / 900), rel=0.15)
