"""Differences of two networks, seeds and folds, against numbers that NumPy and R 4.2 (pROC, lme4, plain loops) have computed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cnnjax import metrics
from cnnjax.metrics.comparison import delong, mcnemar, sign_flips
from cnnjax.metrics.seeds import components

FILES = Path(__file__).parent / "evidence"
EXPECTED = json.loads((FILES / "tiny_expected.json").read_text())
CLOSE = {"rel": 1e-9, "abs": 1e-12}


def table(name):
    """Labels, answers and groups of one of the reference tables, of which `pos` is class 0."""
    with open(FILES / name, newline="") as file:
        rows = list(csv.DictReader(file))
    p = np.array([[float(row["p_pos"]), float(row["p_neg"])] for row in rows])
    called = np.array([["pos", "neg"].index(row["predicted"]) for row in rows])
    labels = np.array([["pos", "neg"].index(row["label"]) for row in rows])
    return labels, metrics.Side(called, p, np.log(p[:, 0]) - np.log(p[:, 1])), [row["group"] for row in rows]


@pytest.fixture(scope="module")
def tiny():
    labels, a, names = table("tiny.csv")
    return labels, a, table("tiny_b.csv")[1], names


def test_the_difference_has_the_reference_interval_and_probabilities(tiny):
    labels, a, b, names = tiny
    expected = EXPECTED["paired_b_minus_a"]
    pair = metrics.compared(labels, a, b, metrics.Groups.of(names), 0)
    accuracy, auc = pair.metrics["accuracy"], pair.metrics["auc"]
    for name in ("se", "df", "low", "high"):
        assert getattr(accuracy.score, name) == pytest.approx(expected[name], **CLOSE)
    assert accuracy.score.value == pytest.approx(expected["accuracy_difference"], **CLOSE)
    assert accuracy.p == expected["signflip_exact_p_of_4096"] and accuracy.test == "sign flips of groups"
    assert auc.score.value == pytest.approx(expected["auc_difference"], **CLOSE)
    assert auc.score.se == pytest.approx(expected["auc_jackknife_se"], **CLOSE)
    assert (pair.lost, pair.gained) == (expected["only_a_right"], expected["only_b_right"])
    assert pair.better + pair.worse + pair.equal == 12


def test_without_groups_the_tests_are_mcnemars_and_delongs(tiny):
    labels, a, b, _ = tiny
    expected = EXPECTED["paired_b_minus_a"]
    found = metrics.compared(labels, a, b, metrics.Groups.of([""] * len(labels)), 0).metrics
    assert found["accuracy"].p == expected["mcnemar_exact_p"] and found["accuracy"].test == "McNemar's test"
    assert found["auc"].p == pytest.approx(expected["delong_paired_p"], **CLOSE) and found["auc"].test == "DeLong's test"
    assert found["log_loss"].test == "Student's t" and 0 < found["log_loss"].p < 1


def test_values_are_those_of_the_reference(tiny):
    labels, a, _, names = tiny
    found = metrics.parts(a, labels, metrics.Groups.of(names), 0)
    for ours, theirs in {"accuracy": "accuracy", "balanced_accuracy": "balanced", "auc": "auc", "log_loss": "log_loss", "brier": "brier",
                         "sensitivity": "sensitivity", "specificity": "specificity"}.items():  # fmt: skip
        assert found[ours].value == pytest.approx(EXPECTED["metrics"][theirs]["estimate"], **CLOSE)
        assert found[ours].own is None or found[ours].own.sum() == pytest.approx(found[ours].value, **CLOSE)


def test_order_of_rows_changes_nothing_and_exchange_changes_the_sign(tiny):
    labels, a, b, names = tiny
    order = np.random.default_rng(1).permutation(len(labels))
    turned = [metrics.Side(side.called[order], side.probabilities[order], side.scores[order]) for side in (b, a)]
    one = metrics.compared(labels, a, b, metrics.Groups.of(names), 0)
    two = metrics.compared(labels[order], *turned, metrics.Groups.of([names[i] for i in order]), 0)
    assert (one.better, one.worse, one.gained, one.lost) == (two.worse, two.better, two.lost, two.gained)
    for name, difference in one.metrics.items():
        assert difference.score.value == pytest.approx(-two.metrics[name].score.value, abs=1e-12)
        assert difference.p == pytest.approx(two.metrics[name].p, abs=1e-12)


def test_several_classes_have_the_metrics_of_several():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 3, 90), rng.dirichlet((1, 1, 1), 90)
    sides = [metrics.Side(q.argmax(1), q) for q in (p, np.roll(p, 1, 0))]
    pair = metrics.compared(labels, *sides, metrics.Groups.of([f"P{i % 15:02}" for i in range(90)]), -1)
    assert set(pair.metrics) == {"accuracy", "balanced_accuracy", "log_loss", "brier"}
    recalls = [(sides[0].called == labels)[labels == k].mean() for k in range(3)]
    assert pair.metrics["balanced_accuracy"].a == pytest.approx(np.mean(recalls))
    one_hot = np.eye(3)[labels]
    assert pair.metrics["brier"].a == pytest.approx(((p - one_hot) ** 2).sum(1).mean())


def test_few_groups_give_a_reason_and_exact_probabilities(tiny):
    labels, a, b, names = tiny
    some = np.isin(names, sorted(set(names))[:3])
    sides = [metrics.Side(side.called[some], side.probabilities[some], side.scores[some]) for side in (a, b)]
    pair = metrics.compared(labels[some], *sides, metrics.Groups.of(np.array(names)[some]), 0)
    assert pair.metrics["accuracy"].score.low is None and "3 groups" in pair.metrics["accuracy"].score.note
    assert pair.metrics["accuracy"].p in (0.25, 0.5, 0.75, 1.0) and pair.metrics["auc"].p is None
    only = labels == 0
    sides = [metrics.Side(side.called[only], side.probabilities[only], side.scores[only]) for side in (a, b)]
    pair = metrics.compared(labels[only], *sides, metrics.Groups.of(np.array(names)[only]), 0)
    assert "auc" not in pair.metrics and "specificity" not in pair.metrics


def test_sign_flips_of_many_groups_are_near_the_exact_share_and_repeat():
    own = np.random.default_rng(0).integers(-3, 4, 40)
    exact = np.zeros(2 * np.abs(own).sum() + 1)
    exact[np.abs(own).sum()] = 1.0
    for change in own:
        exact = (np.roll(exact, change) + np.roll(exact, -change)) / 2
    totals = np.arange(len(exact)) - np.abs(own).sum()
    share = exact[np.abs(totals) >= abs(own.sum())].sum()
    drawn = sign_flips(own / 900)
    assert drawn == pytest.approx(share, abs=4 * (share * (1 - share) / 9999) ** 0.5) and drawn == sign_flips(own / 900)
    assert sign_flips(np.ones(40)) == 1e-4 and sign_flips(np.zeros(40)) == 1.0


def test_equal_answers_are_never_different(tiny):
    labels, a, _, names = tiny
    for groups in (names, [""] * len(names)):
        pair = metrics.compared(labels, a, a, metrics.Groups.of(groups), 0)
        assert {difference.p for difference in pair.metrics.values()} <= {1.0, None} and pair.gained == pair.lost == 0
    assert mcnemar(np.ones(3, bool), np.ones(3, bool)) == 1.0 and delong(a.scores[:1], a.scores[:1], labels[:1] == 0) is None


def test_holm_raises_each_probability_by_those_that_are_left():
    assert metrics.holm([0.01, 0.04, None, 0.03]) == [0.03, 0.06, None, 0.06]
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0] and metrics.holm([None]) == [None]


def test_equal_networks_are_called_different_no_more_often_than_promised():
    rng, groups, found = np.random.default_rng(7), 20, {"flips": [], "mcnemar": []}
    for _ in range(150):
        size = rng.integers(20, 120, groups)
        # An easy or hard patient is so for both networks, and on top of that each network is better with some patients.
        share = np.clip(rng.beta(18, 2, groups) + rng.normal(0, 0.06, (2, groups)), 0, 1)
        index = np.repeat(np.arange(groups), size)
        right = rng.random((2, len(index))) < share[:, index]
        sums = [np.bincount(index, side, minlength=groups) for side in right]
        found["flips"].append(sign_flips(sums[1] - sums[0]) <= 0.05)
        found["mcnemar"].append(mcnemar(*right) <= 0.05)
    assert np.mean(found["flips"]) <= 0.07 and np.mean(found["mcnemar"]) > 0.15


def test_components_of_seeds_and_groups_are_those_of_the_reference():
    expected = EXPECTED["variance_components"]
    found = components(np.array(expected["matrix"]))
    assert (found.mean, found.seed, found.group, found.rest) == pytest.approx(
        (expected["mean"], expected["var_seed"], expected["var_group"], expected["var_residual"]), **CLOSE)  # fmt: skip
    assert found.se_mean == pytest.approx(expected["se_mean_of_4_seeds"], **CLOSE)
    one = (found.group / 12 + found.seed + found.rest / 12) ** 0.5
    assert one == pytest.approx(expected["sd_one_future_training"], **CLOSE)
    assert found.se_future == pytest.approx((found.se_mean**2 + found.seed) ** 0.5, **CLOSE)
    assert components(np.array([[0.1, 0.9], [0.9, 0.1]])).seed == 0.0


def test_intervals_over_seeds_cover_the_truth_and_a_new_training():
    rng, covered = np.random.default_rng(3), np.zeros(2)
    for _ in range(200):
        luck = rng.normal(0, 0.01, 6)
        scores = 0.9 + luck[:5, None] + rng.normal(0, 0.05, 30) + rng.normal(0, 0.02, (5, 30))
        found = metrics.over_seeds(
            [metrics.Part(row.mean(), (row.sum() - row) / 29, row / 30, 30.0) for row in scores], "logit"
        )
        covered += found.mean_low <= 0.9 <= found.mean_high, found.future_low <= 0.9 + luck[5] <= found.future_high
    assert (covered / 200 >= 0.9).all() and found.values == list(scores.mean(1))
    assert found.sd_seeds < found.sd_groups


def test_seeds_on_too_few_groups_have_a_reason():
    few = [metrics.Part(0.9, np.full(4, 0.9), None, 4.0)] * 2
    assert metrics.over_seeds(few, "logit", unit="patient").note == "4 patients, of which 4.0 count: too few for an interval"
    one_decides = [metrics.Part(0.9, np.array([np.nan, *[0.9] * 11]), None, 12.0)] * 2
    assert (
        "alone decides" in metrics.over_seeds(one_decides, "logit").note
        and metrics.over_seeds(one_decides, "logit").mean == 0.9
    )


def test_intervals_over_seeds_stay_within_the_scale_and_perfect_ones_have_a_reason():
    far = [metrics.Part(value, value + np.linspace(-0.02, 0.02, 20), None, 20.0) for value in (0.9, 0.4)]
    found = metrics.over_seeds(far, "logit")
    assert 0 <= found.future_low <= found.mean_low < 0.65 < found.mean_high <= found.future_high <= 1
    assert "perfect" in metrics.over_seeds([metrics.Part(1.0, np.ones(20), None, 20.0)] * 2, "logit").note


def test_folds_have_nadeau_and_bengios_interval():
    expected = EXPECTED["nadeau_bengio"]
    found = metrics.nadeau_bengio(expected["fold_values"], expected["test_over_train"])
    assert (found.value, found.se, found.low, found.high, found.df) == pytest.approx(
        (expected["mean"], expected["se"], expected["low"], expected["high"], 4), **CLOSE)  # fmt: skip
    assert metrics.nadeau_bengio([0.9], 0.25).note == "one fold: no interval"
    assert metrics.nadeau_bengio([0.9, float("nan")], 0.25).value is None
