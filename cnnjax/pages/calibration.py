"""The section of a report about probabilities: whether they are to be trusted, and what the threshold does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax import metrics
from cnnjax.evidence import Evidence
from cnnjax.pages.blocks import Block, Charts, Note, Section, Table
from cnnjax.pages.figures import BLUE, MUTED, figure, styled, svg
from cnnjax.pages.plots import plain
from cnnjax.runs import Evaluation

# name -> (title, what it would be at best)
ROWS = {
    "log_loss": ("log loss", "low"),
    "brier": ("Brier score", "low"),
    "ece": ("calibration error (ECE)", "0"),
    "debiased_l2": ("squared error, without the bins' bias", "0"),
    "slope": ("slope", "1"),
    "intercept": ("intercept at slope 1", "0"),
    "miscalibration": ("Brier: miscalibration", "0"),
    "discrimination": ("Brier: discrimination", "high"),
    "uncertainty": ("Brier: uncertainty of the labels", ""),
}
RATES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}


def calibration_section(evidence: Evidence | None, result: Evaluation) -> Section:
    """Shows whether probabilities are to be trusted, and what the threshold does, of an evaluation with its evidence."""
    if evidence is None or not evidence.calibration:
        return Section("Calibration and threshold", [])
    classes, positive = result.classes, result.positive
    calibration, bins, threshold = evidence.calibration, evidence.reliability, evidence.threshold
    used = "calibrated" if calibration["calibrated"] else "raw"
    blocks: list[Block] = []
    if text := calibration["text"]:
        blocks.append(Note(f"{text[0].upper()}{text[1:]}."))
    blocks += _slope(calibration[used])
    of = f"is {positive}" if positive else "is right"
    blocks += [Charts([svg(diagram(bins, of))]), _numbers(calibration, evidence.unit)]
    if "class_ece" in calibration[used]:
        rows = [(name, f"{value:.4f}") for name, value in zip(classes, calibration[used]["class_ece"], strict=True)]
        blocks.append(
            Table(("class", "calibration error"), rows, folded="Calibration error of each class against the others")
        )
    if threshold:
        blocks += _threshold(threshold, positive, evidence.unit)
    return Section("Calibration and threshold" if positive else "Calibration", blocks)


def _shown(score: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A number with its interval: "0.130 (0.110 to 0.155)"."""
    if not score or score["value"] is None:
        return "-"
    text, ends = f"{score['value']:.{digits}f}", (score["low"], score["high"])
    low, high = (None if end is None else f"{end:.{digits}f}" for end in ends)
    if low and high:
        return f"{text} ({low} to {high})"
    return f"{text} (at least {low})" if low else f"{text} (at most {high})" if high else text


def _slope(numbers: Mapping[str, Any]) -> list[Block]:
    slope = numbers.get("slope")
    if not slope or slope["low"] is None:
        return []
    told = f"slope {_shown(slope, 2)}"
    if slope["high"] < 1:
        return [Note(f"The network is too sure of itself: {told}, which is below 1.", warning=True)]
    if slope["low"] > 1:
        return [Note(f"The network is too careful: {told}, which is above 1.", warning=True)]
    return [Note(f"Nothing says that the network is too sure of itself, or too careful: {told}, which includes 1.")]


def _numbers(calibration: Mapping[str, Any], unit: str) -> Table:
    raw, used = calibration["raw"], calibration["calibrated"]
    rows = [(title, _shown(raw[name]), *((_shown(used[name]),) if used else ()), best)
            for name, (title, best) in ROWS.items() if name in raw]  # fmt: skip
    header = ("number", "as the network gives it", *(("calibrated",) if used else ()), "at best")
    return Table(header, rows, f"With the interval over {unit}s where there is one. Log loss and Brier score are of all probabilities; the "
                 "calibration error is of 15 bins with equally many images.")  # fmt: skip


def _threshold(threshold: Mapping[str, Any], positive: str, unit: str) -> list[Block]:
    said = f"{positive} is called from a probability of {threshold['threshold']:.4g}"
    if threshold["reason"]:
        said += f": evidence.threshold={threshold['rule']} is not followed, {threshold['reason']}"
    elif threshold["rule"] not in ("0.5", f"{threshold['threshold']:g}"):
        said += f", chosen on validation by {threshold['rule']}"
        if threshold["range"]:
            low, high = threshold["range"]
            said += f"; with other {unit}s of validation it would be between {low:.2f} and {high:.2f} in 95 of 100 cases"
    blocks: list[Block] = [Note(f"{said}.")]
    if missed := metrics.asked_text(threshold, "this set"):
        blocks.append(Note(f"{missed[0].upper()}{missed[1:]}.", warning=True))
    share, prevalence = f"{100 * threshold['share']:.3g} %", threshold["prevalence"]
    titles = {name: f"{title} at {share} {positive}" if name in ("ppv", "npv") else title for name, title in RATES.items()}
    if prevalence:
        titles |= {f"{name}_at": f"{RATES[name]} at {100 * prevalence:.3g} % {positive}" for name in ("ppv", "npv")}
    columns = threshold["rows"]
    rows = [(title, *(_shown(column[name]) for column in columns)) for name, title in titles.items()]
    header = ("called from a probability of", *(f"{column['threshold']:.4g}" for column in columns))
    caption = f"PPV and NPV depend on how common {positive} is: {share} in this set, "
    caption += (
        f"{100 * prevalence:.3g} % where the network will be used."
        if prevalence
        else "evidence.prevalence adds those for another share."
    )
    return [*blocks, Table(header, rows, caption)]


@styled
def diagram(bins: Mapping[str, Any], of: str):
    """Draws the diagram of reliability: observed shares over probabilities, raw in grey, and how many images have each below.

    Args:
        bins: of `metrics.reliability`.
        of: the end of "share that ...": "is sick".
    """
    drawn = figure(height=4.6)
    axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", label="as it should be")
    forms = {"raw": (MUTED, "as the network gives them"), "calibrated": (BLUE, "calibrated")}
    if not bins["calibrated"]:
        forms = {"raw": (BLUE, "as the network gives them")}
    for name, (colour, label) in forms.items():
        _points(axes, bins[name], colour, label)
    axes.set_title("Reliability")
    axes.set_ylabel(f"share that {of}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="upper left", fontsize=8)
    counts = np.array(bins["histogram"])
    edges = np.linspace(0, 1, len(counts) + 1)
    below.bar(edges[:-1], counts, 1 / len(counts), align="edge", color=BLUE, alpha=0.6)
    below.set_ylabel("images")
    below.set_xlabel("probability")
    for part in (axes, below):
        plain(part, "both" if part is axes else "y")
    return drawn


def _points(axes, bins: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    x, y = ([row["mean_p"] for row in bins], [row["observed"]["value"] for row in bins])
    axes.plot(x, y, "o-", color=colour, label=label, markersize=4, linewidth=1.2)
    for at, row in zip(x, bins, strict=True):
        value, low, high = (row["observed"][key] for key in ("value", "low", "high"))
        if low is not None or high is not None:
            ends = (value if low is None else low, value if high is None else high)
            axes.plot([at, at], ends, color=colour, linewidth=1)
