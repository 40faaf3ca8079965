"""Thresholds: rules, choices on validation, and their numbers."""

import json

import numpy as np
import pytest
from evidence_tools import EXPECTED, drawn, reference
from scipy.special import logit

from cnnjax import metrics
from cnnjax.metrics import Decision, Groups, Readout, decide, threshold_rule
from cnnjax.metrics.thresholds import choose_threshold, predictive_values, threshold_range


@pytest.mark.parametrize("text, rule", [
    ("0.5", ("number", (0.5,))), (".2", ("number", (0.2,))), ("1e-3", ("number", (0.001,))), ("youden", ("youden", ())),
    ("sensitivity:0.95", ("sensitivity", (0.95,))), ("specificity:.99", ("specificity", (0.99,))), ("cost:10,1", ("cost", (10, 1))),
    ("0", None), ("1", None), ("sensitivity:1", None), ("sensitivity", None), ("cost:1", None), ("cost:0,1", None), ("best", None), ("", None),
    ("nan", None), ("sensitivity:0.95,0.9", None), ("cost:1e999,1", None),
])  # fmt: skip
def test_rules_are_parsed(text, rule):
    assert threshold_rule(text) == rule


def test_youden_s_threshold_is_the_reference_s():
    p, y, groups = reference()
    threshold = choose_threshold(p, y, threshold_rule("youden"))
    assert threshold == EXPECTED["youden"]["threshold"]
    assert (p >= threshold)[y].mean() - (p >= threshold)[~y].mean() == pytest.approx(EXPECTED["youden"]["index"], abs=1e-12)
    low, high = threshold_range(p, y, groups, threshold_rule("youden"))
    assert low <= threshold <= high and {low, high} <= set(p)


@pytest.mark.parametrize("rule", ["sensitivity:0.95", "specificity:0.9", "cost:10,1", "cost:1,10", "youden"])
def test_a_choice_is_the_best_of_all_candidates(rule):
    p, y, _ = reference()
    rule, found = threshold_rule(rule), choose_threshold(p, y, threshold_rule(rule), 0.2)
    sensitivity = {c: (p >= c)[y].mean() for c in p}
    specificity = {c: (p < c)[~y].mean() for c in p}
    if rule.kind == "sensitivity":
        assert found == max(c for c in p if sensitivity[c] >= rule.numbers[0])
    elif rule.kind == "specificity":
        assert found == min(c for c in p if specificity[c] >= rule.numbers[0])
    else:
        weights = (1, 1) if rule.kind == "youden" else (0.2 * rule.numbers[0], 0.8 * rule.numbers[1])
        cost = {c: weights[0] * (1 - sensitivity[c]) + weights[1] * (1 - specificity[c]) for c in p}
        assert cost[found] == pytest.approx(min(cost.values()), abs=1e-12)


def test_what_cannot_be_chosen_is_a_reason_and_one_half():
    logits, labels = np.array([[3.0], [2.0], [1.0]]), np.array([0, 1, 1])
    readout, groups = Readout(positive=1), Groups.of([""] * 3)
    one = decide(logits, labels, groups, readout=readout, rule="specificity:0.9")
    assert one.threshold == 0.5 and one.text("group", "sick") == (
        "evidence.threshold=specificity:0.9 is not followed, no probability of a validation image reaches that: 0.5 is used"
    )
    other = decide(logits[1:], labels[1:], Groups.of([""] * 2), readout=readout, rule="youden")
    assert "one class only" in other.reason and other.val == {"sensitivity": 1.0, "specificity": None}
    assert Decision.from_dict(json.loads(json.dumps(other.to_dict(), allow_nan=False))) == other


def test_a_decision_is_of_calibrated_probabilities_and_calls_as_its_numbers_say():
    logits, labels, groups = drawn()
    fitted = metrics.fit_calibration(logits, labels, groups, "temperature", 0.5)
    decision = decide(logits, labels, groups, readout=metrics.readout_of(fitted, positive=0), rule="sensitivity:0.95")
    readout = metrics.readout_of(fitted, decision.threshold, 0)
    called = readout.called(logits) == 0
    assert called[labels == 0].mean() == decision.val["sensitivity"] >= 0.95 > decision.val["sensitivity"] - 0.002
    assert decision.range[0] < decision.threshold < decision.range[1]
    numbers = metrics.threshold_numbers(logits, labels, groups, readout=readout, decision=decision, prevalence=0.035)
    used, even = numbers["rows"]
    assert used["sensitivity"]["value"] == decision.val["sensitivity"] and even["threshold"] == 0.5
    assert used["ppv"]["value"] == pytest.approx((labels[called] == 0).mean())
    assert used["ppv_at"]["low"] < used["ppv_at"]["value"] < used["ppv_at"]["high"] < used["ppv"]["value"]
    assert not numbers["asked"]["missed"] and metrics.asked_text(numbers, "test") == ""
    json.dumps(numbers, allow_nan=False)


def test_a_target_that_other_images_miss_is_said():
    logits, labels, groups = drawn()
    decision = Decision(threshold=0.9, rule="sensitivity:0.95")
    numbers = metrics.threshold_numbers(
        logits, labels, groups, readout=Readout(positive=1, threshold=0.9), decision=decision
    )
    score = numbers["rows"][0]["sensitivity"]
    assert metrics.asked_text(numbers, "test") == (
        f"asked for sensitivity 0.95, test gives {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
    )
    assert numbers["rows"][0]["ppv_at"] is None


def test_predictive_values_at_a_prevalence_are_the_reference_s():
    expected = EXPECTED["ppv_at_0.035"]
    found = predictive_values(expected["sensitivity"], expected["specificity"], 0.035)
    assert found == pytest.approx((expected["ppv"], expected["npv"]), abs=1e-12)
    p, y, groups = reference()
    numbers = metrics.threshold_numbers(
        logit(p)[:, None], y.astype(int), groups, readout=Readout(positive=1), decision=None, prevalence=0.035
    )
    for name, key in (
        ("ppv_at", "ppv_prev"),
        ("npv_at", "npv_prev"),
        ("ppv", "ppv"),
        ("npv", "npv"),
        ("sensitivity", "sensitivity"),
    ):
        assert numbers["rows"][0][name]["value"] == pytest.approx(EXPECTED["metrics"][key]["estimate"], abs=1e-9)
        assert numbers["rows"][0][name]["se"] == pytest.approx(EXPECTED["metrics"][key]["se_jackknife"], abs=1e-9)


@pytest.mark.parametrize("positive", [0, 1])
def test_another_prevalence_moves_probabilities_and_a_chosen_threshold_with_them(positive):
    logits, _, _ = drawn(sharp=1)
    before = Readout(positive=positive, threshold=0.3, scale=0.8, intercept=0.1)
    fixed, moved = (before.at_prevalence(0.035, 0.5, follows=follows) for follows in (False, True))
    odds = [r.probabilities(logits)[:, positive] / r.probabilities(logits)[:, 1 - positive] for r in (before, moved)]
    np.testing.assert_allclose(odds[1] / odds[0], 0.035 / 0.965, rtol=1e-9)
    np.testing.assert_array_equal(moved.called(logits), before.called(logits))
    assert (fixed.called(logits) == positive).mean() < (before.called(logits) == positive).mean()


@pytest.mark.parametrize("change", [{"threshold": float("nan")}, {"threshold": 2}, {"rule": "x"}, {"range": [0.1]}, {"range": [0.1, 7]},
                                    {"val": {"sensitivity": float("inf")}}, {"prevalence": -1}, {"threshold": None}])  # fmt: skip
def test_a_record_that_no_choice_gives_is_refused(change):
    tree = {**Decision(rule="youden", range=(0.1, 0.2)).to_dict(), **change}
    with pytest.raises((TypeError, ValueError)):
        Decision.from_dict(tree)
