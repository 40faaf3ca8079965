"""Subgroups of images, and rates with their changes."""

import json

import numpy as np
import pytest

from cnnjax.metrics import Groups, change, proportion, rate, rated, subgroups
from cnnjax.metrics.subgroups import divided

RNG = np.random.default_rng(0)
ALONE = Groups.of([""] * 400)


def patients(images: int, count: int) -> Groups:
    return Groups.of([f"p{i % count}" for i in range(images)], "patient")


def test_numbers_are_divided_at_quantiles_and_equal_ones_stay_together():
    parts = divided([str(n) for n in range(100)])
    assert [int(mask.sum()) for mask in parts.values()] == [10, 15, 25, 25, 15, 10]
    assert [*parts][:1] == ["0 to 9"] and [*parts][-1:] == ["90 to 99"]
    parts = divided([0] * 60 + list(range(1, 41)))
    assert sum(mask.sum() for mask in parts.values()) == 100 and int(parts["0 to 0"].sum()) == 60
    assert len(parts) < 6 and all(mask.any() for mask in parts.values())


def test_categories_few_numbers_and_missing_values_are_values():
    parts = divided(["b"] * 10 + ["a"] * 9 + [""] * 5 + ["rare"] + ["odd"])
    assert {name: int(mask.sum()) for name, mask in parts.items()} == {"not stated": 5, "a": 9, "b": 10, "2 other values": 2}
    assert list(divided([1, 2, 3] * 10)) == ["1", "2", "3"]
    parts = divided([*range(50), "", None])
    assert int(parts["not stated"].sum()) == 2
    assert len(divided([f"site {i % 30}" for i in range(600)])) == 21
    assert len(divided([f"id {i}" for i in range(30)])) == len(divided([7.0] * 30)) == 1


@pytest.mark.parametrize("groups", [ALONE, patients(400, 40)], ids=["images", "patients"])
def test_a_subgroup_that_is_worse_is_flagged_and_rows_are_json(groups):
    right, positive, dark = RNG.random(400) < 0.95, RNG.random(400) < 0.5, np.arange(400) < 60
    right[dark] = RNG.random(60) < 0.5
    rows = subgroups(right, positive, {"site": np.where(dark, "far", "near"), "same": ["x"] * 400}, groups, 0.95)
    assert [(row["column"], row["value"]) for row in rows] == [("", "all images"), ("site", "far"), ("site", "near")]
    assert "accuracy" in rows[1]["differs"] and rows[0]["differs"] == []
    assert rows[1]["accuracy"]["value"] == right[dark].mean() and rows[1]["count"] == 60
    assert rows[1]["sensitivity"]["value"] == right[dark & positive].mean()
    assert rows[0]["accuracy"] == proportion(right, np.ones(400, bool), groups).to_dict()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert "sensitivity" not in subgroups(right, None, {}, groups)[0]


def test_bins_of_few_groups_and_of_one_class_have_no_interval_and_do_not_fail():
    groups, right = patients(400, 40), RNG.random(400) < 0.9
    few = groups.index < 3
    row = subgroups(right, few, {"few": np.where(few, "a", "b")}, groups)[1]
    assert row["accuracy"]["low"] is None and "too few" in row["accuracy"]["note"]
    assert row["specificity"]["value"] is None and row["differs"] == []
    assert subgroups(np.zeros(0, bool), None, {"a": []}, Groups.of([])) == []


def test_the_change_of_a_rate_is_paired():
    groups, labels = patients(600, 30), RNG.integers(0, 3, 600)
    before = RNG.random(600) < 0.9
    after = before & (RNG.random(600) < 0.97)
    parts = rated(labels, 3, -1)
    assert list(parts) == ["accuracy", "balanced_accuracy"]
    recalls = lambda right: np.mean([right[labels == k].mean() for k in range(3)])  # noqa: E731
    assert rate(before, parts["balanced_accuracy"], groups).value == pytest.approx(recalls(before))
    paired = change(before, after, parts["balanced_accuracy"], groups)
    assert paired.value == pytest.approx(recalls(after) - recalls(before))
    away = change(before, after, parts["accuracy"], groups)
    without = np.array(
        [
            (after.sum() - after[groups.index == g].sum() - before.sum() + before[groups.index == g].sum()) / 580
            for g in range(30)
        ]
    )
    assert away.se == pytest.approx(np.sqrt(29 / 30 * ((without - without.mean()) ** 2).sum()))
    assert away.low < away.value < away.high < 0  # narrower than two intervals beside each other
    assert away.high - away.low < rate(after, parts["accuracy"], groups).high - rate(after, parts["accuracy"], groups).low


def test_rates_of_two_classes_and_of_an_absent_one():
    labels = np.array([0, 1, 1, 0])
    parts = rated(labels, 2, 1)
    assert parts["sensitivity"].tolist() == [[False, True, True, False]] and list(parts) == [
        "accuracy",
        "sensitivity",
        "specificity",
    ]
    none = change(np.ones(2, bool), np.ones(2, bool), rated(np.zeros(2, int), 2, 1)["sensitivity"], Groups.of(["", ""]))
    assert none.value is None and none.note
