"""Calibration and its numbers, against reference values that were computed twice, by NumPy and by R."""

import json

import numpy as np
import pytest
from evidence_tools import EXPECTED, drawn, reference
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from cnnjax import metrics
from cnnjax.metrics import Calibration, Groups, Readout, fit_calibration
from cnnjax.metrics.calibration import _line, _loss, _scale, logistic
from cnnjax.metrics.readout import positive_logit
from cnnjax.metrics.reliability import debiased_l2, decomposed, ece, equal_mass, slope_and_intercept


def test_temperature_is_the_reference_s():
    p, y, _ = reference()
    z = logit(p)[:, None]
    scale = _scale(z, y.astype(int))
    assert 1 / scale == pytest.approx(EXPECTED["temperature"]["temperature"], abs=1e-6)
    assert _loss(scale * z, y.astype(int)) == pytest.approx(EXPECTED["temperature"]["log_loss"], abs=1e-9)


def test_platt_s_line_is_the_reference_s():
    p, y, _ = reference()
    intercept, slope = logistic(logit(p), y)
    assert (intercept, slope) == pytest.approx((EXPECTED["platt"]["intercept"], EXPECTED["platt"]["slope"]), abs=1e-6)
    assert log_loss(y, expit(intercept + slope * logit(p))) == pytest.approx(EXPECTED["platt"]["log_loss"], abs=1e-9)


def test_numbers_of_calibration_are_the_reference_s():
    p, y, groups = reference()
    slope, intercept = slope_and_intercept(logit(p), y, groups)
    assert intercept.value == pytest.approx(EXPECTED["calibration_in_the_large"], abs=1e-6)
    assert slope.value == pytest.approx(EXPECTED["platt"]["slope"], abs=1e-6)
    corp = EXPECTED["corp_brier"]
    assert decomposed(p, y) == pytest.approx({name: corp[name] for name in corp if name != "score"}, abs=1e-9)
    bins, place = EXPECTED["ece_5_equal_mass"], equal_mass(p, 5)
    assert np.bincount(place).tolist() == bins["n"]
    assert np.bincount(place, p) / np.bincount(place) == pytest.approx(bins["mean_p"], abs=1e-12)
    score = ece(p, y, groups, bins=5)
    assert (score.value, score.se, score.df) == pytest.approx((bins["ece"], 0.0624853297, 9.778443113), abs=1e-9)
    assert (score.low, score.high) == pytest.approx((0, 0.2124881044), abs=1e-9)
    assert debiased_l2(p, y, 5) == pytest.approx(bins["ece_l2_debiased_squared"], abs=1e-9)
    numbers = metrics.calibration_numbers(logit(p)[:, None], y.astype(int), groups, positive=1, calibration=None)
    for name in ("log_loss", "brier"):
        assert numbers["raw"][name]["value"] == pytest.approx(EXPECTED["metrics"][name]["estimate"], abs=1e-9)
        assert numbers["raw"][name]["se"] == pytest.approx(EXPECTED["metrics"][name]["se_jackknife"], abs=1e-9)
    assert numbers["calibrated"] is None and json.loads(json.dumps(numbers, allow_nan=False)) == numbers


@pytest.mark.parametrize("classes", [1, 4])
def test_logits_twice_as_large_have_twice_the_temperature_and_the_same_probabilities(classes):
    logits, labels, groups = drawn(classes=classes)
    one = fit_calibration(logits, labels, groups, "temperature", None)
    two = fit_calibration(2 * logits, labels, groups, "temperature", None)
    assert one.temperature == pytest.approx(2, rel=0.15)  # they were drawn twice too large
    assert two.temperature == pytest.approx(2 * one.temperature, rel=1e-9)
    assert one.val_log_loss[1] == pytest.approx(two.val_log_loss[1], rel=1e-12) and one.val_log_loss[1] < one.val_log_loss[0]
    p = [metrics.readout_of(fit).probabilities(z) for fit, z in ((one, logits), (two, 2 * logits))]
    np.testing.assert_allclose(*p, rtol=1e-9)


@pytest.mark.parametrize("classes", [1, 4])
def test_a_temperature_changes_neither_the_class_nor_the_order_and_ties_stay_ties(classes):
    logits, labels, _ = drawn(classes=classes)
    logits = np.concatenate([np.zeros((3, classes)), 1e-9 * logits[:3], logits]).astype(np.float32)
    readout = metrics.readout_of(
        Calibration(asked="temperature", method="temperature", scale=0.37, val_images=1, val_groups=1), positive=0
    )
    np.testing.assert_array_equal(readout.called(logits), metrics.called(logits))
    assert (readout.called(logits[:3]) == 0).all()  # the first of equal ones, whichever is the positive class
    if classes == 1:
        score = [metrics.auc(readout.logits(z)[:, 0], np.r_[np.zeros(6), labels] == 1) for z in (logits, logits / 0.37)]
        assert score[0] == score[1]


def test_a_calibration_folded_into_the_last_layer_gives_the_same_probabilities():
    random = np.random.default_rng(1)
    features, readout = random.normal(size=(50, 8)), Readout(scale=0.83, intercept=0.4)
    layer = {"kernel": random.normal(size=(8, 1)), "bias": random.normal(size=1)}
    folded = {"kernel": readout.scale * layer["kernel"], "bias": readout.scale * layer["bias"] + readout.intercept}
    raw, new = (features @ some["kernel"] + some["bias"] for some in (layer, folded))
    np.testing.assert_allclose(readout.probabilities(raw), metrics.probabilities(new), atol=1e-12)


def test_too_few_images_or_groups_and_a_bound_are_reasons():
    logits, labels, groups = drawn()
    few = fit_calibration(logits[:150], labels[:150], Groups.of([""] * 150), "temperature", 0.5)
    assert (
        few.text("group")
        == "probabilities are as the network gives them: validation has 150 images, a calibration needs 200 images"
    )
    some = Groups.of([f"{i % 9}" for i in range(len(labels))], "patient")
    assert (
        "2,000 images of 9 patients, a calibration needs" in fit_calibration(logits, labels, some, "temperature", 0.5).reason
    )
    known = np.where(labels[:, None] == 1, 5.0, -5.0)  # always right: the colder, the better
    assert "would be below 0.05: hardly a mistake" in fit_calibration(known, labels, groups, "temperature", 0.5).reason
    assert "would be above 20: its order is chance" in fit_calibration(-known, labels, groups, "temperature", 0.5).reason
    known[0] = np.nan
    assert fit_calibration(known, labels, groups, "platt", 0.5).reason == "a logit of validation is not finite"
    assert fit_calibration(logits, labels, groups, "none", 0.5).text("group") == ""


def test_platt_is_used_where_it_is_better_by_a_standard_error_and_else_a_temperature_with_a_sentence():
    logits, labels, groups = drawn()
    moved = fit_calibration(logits + 3, labels, groups, "platt", 0.5)
    assert (
        moved.method == "platt"
        and moved.intercept == pytest.approx(-1.5, abs=0.3)
        and "Platt's line, slope 0.5" in moved.text("group")
    )
    same = fit_calibration(logits, labels, groups, "platt", 0.5)
    assert same.method == "temperature" and "no better by a standard error" in same.text("group")
    assert _line(logits[:3], labels[:3], Groups.of(["a", "b", "c"]))[0] is None


def test_slope_without_a_group_is_close_to_a_fit_without_it():
    logits, labels, groups = drawn()
    z, y = positive_logit(logits, 1), labels == 1
    score, _ = slope_and_intercept(z, y, groups)
    without = np.array([logistic(z[groups.index != g], y[groups.index != g])[1] for g in range(groups.count)])
    exact = metrics.jackknife(score.value, without, score.effective, link="identity")
    assert (score.low, score.high) == pytest.approx((exact.low, exact.high), rel=0.01)
    assert score.high < 1  # too sure of itself


@pytest.mark.parametrize("classes, positive", [(1, 0), (1, 1), (4, -1)])
def test_numbers_before_and_after_agree_with_the_classes_turned_round(classes, positive):
    logits, labels, groups = drawn(classes=classes)
    fitted = fit_calibration(logits, labels, groups, "temperature", None)
    numbers = metrics.calibration_numbers(logits, labels, groups, positive=positive, calibration=fitted)
    before, after = numbers["raw"], numbers["calibrated"]
    assert (before["log_loss"]["value"], after["log_loss"]["value"]) == pytest.approx(fitted.val_log_loss)
    assert after["ece"]["value"] < before["ece"]["value"] and after["brier"]["value"] < before["brier"]["value"]
    if positive >= 0:
        assert before["slope"]["value"] == pytest.approx(0.5, abs=0.06) and after["slope"]["value"] == pytest.approx(
            1, abs=0.01
        )
        brier = before["miscalibration"]["value"] - before["discrimination"]["value"] + before["uncertainty"]["value"]
        assert brier == pytest.approx(before["brier"]["value"], abs=1e-12)
    else:
        assert len(after["class_ece"]) == classes and max(after["class_ece"]) < 0.05
    bins = metrics.reliability(logits, labels, groups, positive=positive, calibration=fitted)
    assert (
        sum(bins["histogram"])
        == sum(b["images"] for b in bins["raw"])
        == sum(b["images"] for b in bins["calibrated"])
        == 2000
    )
    assert len(bins["raw"]) == 10 and all(
        b["observed"]["low"] < b["observed"]["value"] < b["observed"]["high"] for b in bins["raw"][2:8]
    )
    json.dumps([numbers, bins], allow_nan=False)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 0], [1]])
@pytest.mark.parametrize("z", [0.0, 1e4, -1e4])
def test_a_handful_of_images_has_numbers_or_none(labels, z):
    logits, groups = np.full((len(labels), 1), z), Groups.of([""] * len(labels))
    numbers = metrics.calibration_numbers(logits, np.array(labels), groups, positive=1, calibration=None)
    bins = metrics.reliability(logits, np.array(labels), groups, positive=1, calibration=None)
    json.dumps([numbers, bins], allow_nan=False)
    assert numbers["raw"]["ece"]["low"] is None and numbers["raw"]["slope"]["value"] is None


@pytest.mark.parametrize("change", [{"scale": float("nan")}, {"scale": -1.0}, {"scale": 0}, {"intercept": 1e300}, {"method": "beta"}, {"share": 1.5},
                                    {"val_log_loss": [1.0]}, {"val_log_loss": None}, {"step": "x"}, {"scale": [1]}])  # fmt: skip
def test_a_record_that_no_fit_gives_is_refused(change):
    logits, labels, groups = drawn(images=300, patients=20)
    tree = json.loads(json.dumps(fit_calibration(logits, labels, groups, "temperature", 0.5).to_dict()))
    assert Calibration.from_dict(tree).to_dict() == {**tree, "val_log_loss": tuple(tree["val_log_loss"])}
    with pytest.raises((TypeError, ValueError)):
        Calibration.from_dict({**tree, **change})
