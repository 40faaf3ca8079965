"""Numbers of groups: reference values, their table, scores and burdens of whole groups."""

import csv

import numpy as np
import pytest
from test_intervals import EXPECTED, FOLDER, NAMES, drawn, tiny

from cnnjax import metrics
from cnnjax.metrics.estimators import estimator
from cnnjax.metrics.intervals import rows


def test_rows_of_groups_are_the_reference():
    p, groups = tiny()
    found = {row.group: row for row in metrics.group_rows(p, groups)}
    names = sorted(found)
    expected = EXPECTED["groups"]
    assert [found[name].mean_p for name in names] == pytest.approx(expected["mean_p"], abs=1e-9)
    assert [found[name].called_positive / found[name].images for name in names] == pytest.approx(expected["called_fraction"])
    assert [found[name].positives > 0 for name in names] == expected["has_positive"]
    assert [row.errors for row in metrics.group_rows(p, groups)] == sorted(
        (row.errors for row in found.values()), reverse=True
    )
    p05 = found["P05"]  # three negatives, all called positive
    assert (p05.images, p05.errors, p05.accuracy) == (3, 3, 0.0) and (p05.low, p05.high) == metrics.wilson(0, 3)


def test_the_score_of_a_group_is_the_mean_of_its_five_highest_logits():
    p, groups = tiny()
    margin = np.log(p.calibrated[:, 0] / p.calibrated[:, 1])
    expected = [np.sort(margin[groups.index == g])[-5:].mean() for g in range(12)]
    assert metrics.group_scores(p, groups) == pytest.approx(expected)


def test_the_auc_of_groups_needs_ten_of_each_kind_for_an_interval():
    found = metrics.group_auc(*tiny())
    assert found.value == pytest.approx(20 / 27) and found.low is None
    assert found.note == "9 patients with a positive image and 3 without: too few for an interval"
    p, groups = drawn(n=900, groups=60)
    healthy = (groups.index % 2).astype(bool)
    labels = np.where(healthy, 0, p.labels)
    logits = np.where(healthy[:, None], p.logits - [0, 2], p.logits)
    found = metrics.group_auc(metrics.Predictions(logits, labels, 1), groups)
    assert found.low < found.value and found.groups == groups.count


def test_the_burden_is_corrected_as_in_the_reference():
    known = EXPECTED["rogan_gladen"]
    assert metrics.rogan_gladen(known["called"], known["sensitivity"], known["specificity"]) == pytest.approx(
        known["estimate"], abs=1e-9
    )
    assert metrics.rogan_gladen(0.01, 0.95, 0.97) == 0.0 and metrics.rogan_gladen(0.99, 0.95, 0.97) == 1.0
    assert metrics.rogan_gladen(0.5, 0.4, 0.6) is None


def test_how_unevenly_errors_fall_on_groups():
    p, groups = tiny()
    found, errors = metrics.spread(p, groups), sorted((row.errors for row in metrics.group_rows(p, groups)), reverse=True)
    assert found["errors_in_worst_5"] == sum(errors[:5]) / sum(errors)
    assert found["single_class_groups"] == 3
    assert metrics.spread(*drawn(groups=0)) == {}
    assert (
        metrics.spread(p.kept(p.called == p.labels), metrics.Groups.of(["P"] * int((p.called == p.labels).sum())))[
            "errors_in_worst_5"
        ]
        is None
    )


@pytest.mark.parametrize("name", [name for name in EXPECTED["metrics"] if name != "ap"])
def test_resampled_groups_are_the_reference(name):
    with open(FOLDER / "tiny_weights.csv", newline="", encoding="utf-8") as file:
        header, *table = csv.reader(file)
    p, groups = tiny()
    assert header == list(groups.names)
    values = estimator(rows(p)[NAMES.get(name, name)].of).resampled(p, groups, np.array(table, float))
    expected = EXPECTED["metrics"][name]
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx(expected["percentile_400"], abs=1e-9)
    assert values.std(ddof=1) == pytest.approx(expected["bootstrap_se_400"], abs=1e-9)


def test_average_precision_of_resampled_groups_is_near_the_exact_one():
    p, groups = drawn(n=5000, groups=50)
    row = metrics.METRICS["average_precision"].of
    assert row.resampled(p, groups, np.ones((1, groups.count)))[0] == pytest.approx(row(p), abs=2e-3)


def test_the_bootstrap_is_beside_the_default_and_says_nothing_of_images_without_groups():
    p, groups = drawn(n=2000, groups=60)
    drawn_again, default = metrics.resampled(p, groups, 500), metrics.scored(p, groups)
    assert {"accuracy", "auc", "mcc"} < drawn_again.keys() and "ece" not in drawn_again
    for name, (low, high) in drawn_again.items():
        assert (low, high) == pytest.approx(
            (default[name].low, default[name].high), abs=0.35 * (default[name].high - default[name].low)
        ), name
    assert metrics.resampled(*drawn(groups=0), 500) == {} and metrics.resampled(*drawn(groups=9), 500) == {}
