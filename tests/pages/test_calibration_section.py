"""The section about calibration and the threshold, from numbers alone."""

import re
from types import SimpleNamespace

import pytest
from evidence_tools import drawn

from cnnjax import metrics
from cnnjax.metrics import Decision
from cnnjax.pages.blocks import Charts, Note, Page, Table, html
from cnnjax.pages.calibration import calibration_section


def section(classes=1, method="temperature", decision=None, prevalence=0.0, sharp=2.0, images=1000):
    """The section of drawn logits that are `sharp` times too large."""
    logits, labels, groups = drawn(images, classes=classes, sharp=sharp)
    positive, names = (1, ["well", "sick"]) if classes == 1 else (-1, ["a", "b", "c", "d"])
    fitted = metrics.fit_calibration(logits, labels, groups, method, 0.5)
    told = {"positive": positive, "calibration": fitted}
    numbers = {"calibration": metrics.calibration_numbers(logits, labels, groups, **told),
               "reliability": metrics.reliability(logits, labels, groups, **told), "threshold": {}}  # fmt: skip
    if classes == 1:
        readout = metrics.readout_of(fitted, decision.threshold if decision else 0.5, 1)
        numbers["threshold"] = metrics.threshold_numbers(
            logits, labels, groups, readout=readout, decision=decision, prevalence=prevalence
        )
    result = SimpleNamespace(classes=names, positive="sick" if classes == 1 else "")
    return calibration_section(SimpleNamespace(**numbers, unit="patient"), result)


def texts(made) -> list[str]:
    return [block.text for block in made.blocks if isinstance(block, Note)]


def tables(made) -> list[Table]:
    return [block for block in made.blocks if isinstance(block, Table)]


def test_numbers_before_and_after_stand_beside_their_targets():
    made = section()
    assert re.match(r"Calibrated on 40 patients of validation: temperature \d\.\d\d \(log loss", texts(made)[0])
    (numbers, rates) = tables(made)
    assert numbers.header == ("number", "as the network gives it", "calibrated", "at best")
    slope = next(row for row in numbers.rows if row[0] == "slope")
    assert (
        re.fullmatch(r"0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", slope[1])
        and slope[2].startswith(("0.9", "1.0"))
        and slope[3] == "1"
    )
    assert [row[0] for row in rates.rows][:2] == ["sensitivity", "specificity"] and rates.header[1:] == ("0.5",)
    (chart,) = [block for block in made.blocks if isinstance(block, Charts)]
    assert "as the network gives them" in chart.items[0] and "share that is sick" in chart.items[0]
    assert "Calibration and threshold" in html(Page("a", "b", [made]))


def test_a_network_that_is_too_sure_and_one_that_is_too_careful_are_told_in_words():
    assert any("too sure of itself: slope 0." in text for text in texts(section(method="none")))
    assert any("too careful: slope 2." in text for text in texts(section(method="none", sharp=0.4)))
    assert any(text.startswith("Nothing says") for text in texts(section()))


def test_a_threshold_of_a_rule_stands_beside_one_half_and_the_prevalence_is_marked():
    decision = Decision(threshold=0.9, rule="sensitivity:0.95", range=(0.8, 0.95))
    made = section(decision=decision, prevalence=0.035)
    assert tables(made)[1].header == ("called from a probability of", "0.9", "0.5")
    assert "PPV at 3.5 % sick" in [row[0] for row in tables(made)[1].rows]
    assert any("chosen on validation by sensitivity:0.95; with other patients" in text for text in texts(made))
    assert any(text.startswith("Asked for sensitivity 0.95, this set gives") for text in texts(made))
    failed = section(decision=Decision(rule="youden", reason="validation has images of one class only"))
    assert any("evidence.threshold=youden is not followed, validation has" in text for text in texts(failed))


def test_several_classes_have_no_threshold():
    made = section(classes=4)
    assert made.title == "Calibration" and [table.header[0] for table in tables(made)] == ["number", "class"]


@pytest.mark.parametrize("images", [3, 12])
def test_a_handful_of_images_has_a_section_too(images):
    html(Page("a", "b", [section(images=images)]))


def test_without_numbers_there_is_no_section():
    assert calibration_section(None, None).blocks == []
