"""Intervals of every metric of the table, of every class, and their text."""

from collections.abc import Callable

import numpy as np

from cnnjax.metrics.estimators import estimator
from cnnjax.metrics.jackknife import FEW, Groups, Score, effective, jackknife, wilson
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.table import AGAINST_OTHERS, METRICS, Metric

CLASSES = AGAINST_OTHERS  # up to which each class has intervals
OF_CLASS = {"recall": "sensitivity", "precision": "ppv", "f1": "f1", "auc": "auc"}  # name in files -> row of `METRICS`


def _fewer(p: Predictions, groups: Groups) -> float:
    if p.classes > 2:
        return effective(groups.sums(np.ones(len(p.labels))))
    return min(effective(groups.sums(p.is_positive)), effective(groups.sums(~p.is_positive)))


# What counts -> the number of groups that count. Several classes: all images, for every metric.
COUNTING: dict[str, Callable[[Predictions, Groups], float]] = {
    "images": lambda p, groups: effective(groups.sums(np.ones(len(p.labels)))),
    "positives": lambda p, groups: effective(groups.sums(p.is_positive)),
    "negatives": lambda p, groups: effective(groups.sums(~p.is_positive)),
    "fewer": _fewer,
}


def rows(p: Predictions) -> dict[str, Metric]:
    """Returns the rows of `METRICS` that have an interval for such predictions."""
    return {name: metric for name, metric in METRICS.items()
            if metric.link and metric.needs(p.classes) and (p.prevalence or not metric.stated)}  # fmt: skip


def without(metric: Metric, p: Predictions, groups: Groups) -> np.ndarray:
    """Returns a metric without each group, or of many groups and a metric that is slow without each block of them, float64; NaN where
    it is not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimator(metric.of).without(p, groups)


def scored(p: Predictions, groups: Groups, *, level: float = 0.95) -> dict[str, Score]:
    """Returns every metric with its interval, by its name in `METRICS`.

    Args:
        p: predictions of a split.
        groups: of the images.
        level: of confidence.
    """
    return {name: score(metric, p, groups, level=level) for name, metric in rows(p).items()}


def score(metric: Metric, p: Predictions, groups: Groups, *, level: float = 0.95) -> Score:
    """Returns one metric with its interval, as `scored`."""
    of = estimator(metric.of)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = of(p)
        if value is not None and of.proportion and not groups.named:
            return _independent(*(sums.sum() for sums in of.of(p)), level)
        left = of.without(p, groups)
    ends = {"least": 0.0, "most": 1.0} if metric.bounded else {}
    return jackknife(value, left, COUNTING[metric.counting](p, groups), link=metric.link, level=level, unit=groups.unit, count=groups.count,
                     **ends)  # fmt: skip


def _independent(hits: float, among: float, level: float) -> Score:
    low, high = wilson(hits, among, level)
    return Score(value=float(hits / among), low=low, high=high, groups=int(among), effective=float(among), method="wilson")


def scored_classes(p: Predictions, groups: Groups, *, level: float = 0.95) -> list[dict[str, Score]]:
    """Returns recall, precision, F1 and AUC of each class against all others, with intervals; [] of more than `CLASSES` classes."""
    if p.classes > CLASSES:
        return []
    found = []
    for one in range(p.classes):
        own = p.against_others(one)
        found.append({name: score(METRICS[row], own, groups, level=level) for name, row in OF_CLASS.items()})
    return found


def is_few(of: Score) -> bool:
    """Tells whether an interval is of so few groups that readers should beware."""
    return of.method == "jackknife" and of.effective < FEW


def title_of(name: str, prevalence: float = 0.0) -> str:
    """Returns what people read for a metric; of one at a stated prevalence, with that: "PPV at 3.5 %"."""
    if name not in METRICS:
        return name
    return METRICS[name].title + (f" at {100 * prevalence:.3g} %" if METRICS[name].stated else "")


def interval_text(of: Score, form: str = ".3f") -> str:
    """Returns an interval as text: "0.931 to 0.969", with "!" where few groups count; "at least 0.95"; "" where there is none."""
    low, high, few = of.low, of.high, " !" if is_few(of) else ""
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {low:{form}}"
    return f"at most {high:{form}}" if low is None else f"{low:{form}} to {high:{form}}{few}"


def score_text(of: Score, unit: str) -> str:
    """Returns a metric with its interval as text: "0.953 (0.931 to 0.969; 40 patients, 23 count)", or with the reason for none."""
    if of.value is None:
        return f"- ({of.note})"
    known = f"{of.groups:,} {unit}{'' if of.groups == 1 else 's'}" + (
        "" if unit == "image" else f", {of.effective:.{0 if of.effective >= FEW else 1}f} count"
    )
    told = interval_text(of)
    return f"{of.value:.3f} ({f'{told}; {known}' if told else of.note})"
