"""Shares of right answers among some images, and how they change between two sets of answers for the same images."""

from collections.abc import Mapping

import numpy as np

from cnnjax.metrics.jackknife import Groups, Score, effective, jackknife, proportion

Parts = np.ndarray  # bool [parts, n]: a rate is the mean over the parts of the share of right answers in each


def rated(labels: np.ndarray, classes: int, positive: int) -> dict[str, Parts]:
    """Returns the rates of a task, name -> the images that each is about.

    Args:
        labels: int [n].
        classes: number of classes.
        positive: the positive class of two; -1 for more classes.

    Returns:
        Accuracy, and of two classes sensitivity and specificity, of more the balanced accuracy of the classes that are there.
    """
    parts = {"accuracy": np.ones((1, len(labels)), bool)}
    if classes == 2:
        return {**parts, "sensitivity": (labels == positive)[None], "specificity": (labels != positive)[None]}
    return {**parts, "balanced_accuracy": labels == np.unique(labels)[:, None]}


def rate(right: np.ndarray, parts: Parts, groups: Groups, level: float = 0.95) -> Score:
    """Returns a rate with its interval, of bool [n] right answers."""
    if len(parts) == 1:
        return proportion(right, parts[0], groups, level)
    return _jackknife(right, parts, groups, level, "logit", {})


def change(before: np.ndarray, after: np.ndarray, parts: Parts, groups: Groups, level: float = 0.95) -> Score:
    """Returns a rate of `after` minus that of `before`, with its paired interval; both bool [n], right answers for the same images."""
    return _jackknife(after.astype(int) - before, parts, groups, level, "identity", {"least": -1.0, "most": 1.0})


def _jackknife(
    values: np.ndarray, parts: Parts, groups: Groups, level: float, link: str, ends: Mapping[str, float]
) -> Score:
    total, size = (np.stack([groups.sums(row) for row in rows]) for rows in (values * parts, parts))
    if not size.sum():
        return Score(value=None, groups=groups.count, note="not defined for these images")
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (total.sum(1) / size.sum(1)).mean()
        without = ((total.sum(1, keepdims=True) - total) / (size.sum(1, keepdims=True) - size)).mean(0)
    return jackknife(value, without, effective(size.sum(0)), link=link, level=level, unit=groups.unit, **ends)
