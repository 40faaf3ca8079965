"""Accuracy where images have something in common: the darkest tenth, the largest ones, those of one site."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.metrics.jackknife import Groups, effective, proportion

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
DISTINCT = 6  # different numbers up to which each is a value of its own, as of a grade or a scanner
MOST, LEAST = 20, 5  # values of a column that have a row; images of a value with one


def subgroups(right: np.ndarray, positive: np.ndarray | None, columns: Mapping[str, Sequence], groups: Groups,
              level: float = 0.95) -> list[dict[str, Any]]:  # fmt: skip
    """Returns the scores of all images and of subgroups.

    A column of numbers is divided at its 10, 25, 50, 75 and 90 % quantiles, any other one, or one of few different numbers, by its
    values. A column that does not divide the images is left out.

    Args:
        right: bool [n], whether the answer for an image is right.
        positive: bool [n], the images of the positive class of two; None for more classes.
        columns: name -> a number or a text for each image; "" where there is none.
        groups: of the images.
        level: confidence of the intervals.

    Returns:
        Rows as JSON holds them: column, value (of the bin or the category in words), count (images), effective (groups that count),
        accuracy, and of two classes sensitivity and specificity, each as `Score.to_dict`; differs, the names of those whose interval
        excludes the value of all images. The first row is of all images, its column "".
    """
    if not len(right):
        return []
    whole = _row("", "all images", np.ones(len(right), bool), right, positive, groups, level)
    found = [whole]
    for column, values in columns.items():
        parts = divided(values)
        if len(parts) > 1:
            found += [_row(column, name, mask, right, positive, groups, level) for name, mask in parts.items()]
    for row in found[1:]:
        row["differs"] = [
            name for name in ("accuracy", "sensitivity", "specificity") if name in row and _apart(row[name], whole[name])
        ]
    return found


def divided(values: Sequence) -> dict[str, np.ndarray]:
    """Divides images by a column: bins of numbers, else values; name -> bool [n]."""
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    if len(np.unique(numbers[known])) <= DISTINCT or not all(
        known | np.array([value in ("", None) for value in values], bool)
    ):
        return _by_value(["" if value is None else str(value) for value in values])
    edges = np.unique(np.quantile(numbers[known], QUANTILES))
    place = np.searchsorted(edges, numbers, side="left")  # a bin holds its upper edge
    parts = {}
    for i in range(len(edges) + 1):
        mask = known & (place == i)
        if mask.any():
            parts[f"{_shown(numbers[mask].min())} to {_shown(numbers[mask].max())}"] = mask
    return {**parts, "not stated": ~known} if not known.all() else parts


def _numbers(values: Sequence) -> np.ndarray:
    """Values as float64 [n], NaN for what is not a number."""

    def number(value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return math.nan

    return np.fromiter(map(number, values), np.float64, len(values))


def _by_value(values: Sequence[str]) -> dict[str, np.ndarray]:
    """The most frequent values, in their order, and all others together."""
    texts = np.asarray(values, object)
    frequent = [value for value, count in Counter(values).most_common(MOST) if count >= LEAST]
    parts = {value or "not stated": texts == value for value in sorted(frequent)}
    rest = ~np.isin(texts, frequent) if frequent else np.ones(len(texts), bool)
    if rest.any():
        parts[f"{len(set(texts[rest])):,} other values"] = rest
    return parts


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _row(
    column: str, name: str, mask: np.ndarray, right: np.ndarray, positive: np.ndarray | None, groups: Groups, level: float
) -> dict:
    own = _within(groups, mask)
    row = {
        "column": column,
        "value": name,
        "count": int(mask.sum()),
        "effective": effective(own.sums(np.ones(mask.sum()))),
        "differs": [],
    }
    kinds = {"accuracy": np.ones(mask.sum(), bool)}
    if positive is not None:
        kinds |= {"sensitivity": positive[mask], "specificity": ~positive[mask]}
    return row | {kind: proportion(right[mask], among, own, level).to_dict() for kind, among in kinds.items()}


def _within(groups: Groups, mask: np.ndarray) -> Groups:
    """The groups of some of the images; those without any are left out, so that they do not count."""
    present, index = np.unique(groups.index[mask], return_inverse=True)
    return Groups(index, [groups.names[i] for i in present], groups.named, groups.unit)


def _apart(score: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Returns whether an interval excludes the value of all images."""
    value = whole["value"]
    low, high = score["low"], score["high"]
    return value is not None and ((low is not None and value < low) or (high is not None and value > high))
