"""Metrics of an order of the images, as estimators: area under the ROC curve, average precision."""

import numpy as np

from cnnjax.metrics.estimators import Estimator, blocks
from cnnjax.metrics.jackknife import Groups, auc_without
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.scores import auc

BINS = 1024  # of scores, for average precision of groups that are drawn again: an error of 5e-5
NUMBERS = 2**21  # weights of images that are held at once


def area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns the area under the ROC curve; None where a class is missing."""
    return auc(scores, positive) if 0 < positive.sum() < len(positive) else None


class Auc(Estimator):
    """The area under the ROC curve of two classes."""

    def __call__(self, p: Predictions) -> float | None:
        return area(p.margin, p.is_positive)

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        return auc_without(p.margin, p.is_positive, groups)[1]

    def resampled(self, p: Predictions, groups: Groups, weights: np.ndarray) -> np.ndarray:
        pairs = _pairs(p.margin, p.is_positive, groups)
        both = (weights @ groups.sums(p.is_positive)) * (weights @ groups.sums(~p.is_positive))
        return ((weights @ pairs) * weights).sum(1) / both


def _pairs(scores: np.ndarray, positive: np.ndarray, groups: Groups) -> np.ndarray:
    """Returns the pairs that positives of one group win against negatives of another, ties as halves, float64 [groups, groups]."""
    high, low, of_high, of_low = scores[positive], scores[~positive], groups.index[positive], groups.index[~positive]
    pairs = np.zeros((groups.count, groups.count))
    for group in np.unique(of_low):
        own = np.sort(low[of_low == group])
        wins = sum(np.searchsorted(own, high, side) for side in ("left", "right")) / 2
        pairs[:, group] = np.bincount(of_high, wins, minlength=groups.count)
    return pairs


class MacroAuc(Estimator):
    """The mean over classes of the area under the ROC curve of each against all others; classes without images are left out."""

    def __call__(self, p: Predictions) -> float | None:
        areas = [area(p.odds[:, one], p.labels == one) for one in np.unique(p.labels)]
        return float(np.mean(areas)) if len(areas) > 1 else None

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        return np.mean([auc_without(p.odds[:, one], p.labels == one, groups)[1] for one in np.unique(p.labels)], axis=0)


class AveragePrecision(Estimator):
    """The mean precision over the steps of recall, of two classes: scikit-learn's `average_precision_score`."""

    def __call__(self, p: Predictions) -> float | None:
        positive, order, ends = _descending(p.margin, p.is_positive)
        return float(_precision(np.ones((1, len(order))), positive, ends)[0]) if p.is_positive.any() else None

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        positive, order, ends = _descending(p.margin, p.is_positive)
        index = blocks(p, groups)[order]
        step, count = max(NUMBERS // len(order), 1), int(index.max()) + 1
        parts = (np.arange(low, min(low + step, count)) for low in range(0, count, step))
        return np.concatenate([_precision((index != part[:, None]).astype(np.float64), positive, ends) for part in parts])

    def resampled(self, p: Predictions, groups: Groups, weights: np.ndarray) -> np.ndarray:
        positive, order, _ = _descending(p.margin, p.is_positive)
        place = np.arange(len(order)) * BINS // len(order)
        cells = groups.index[order] * BINS + place
        size = groups.count * BINS
        of_all, of_positive = (np.bincount(cells, values, minlength=size).reshape(-1, BINS) for values in (None, positive))
        everyone, hits = ((weights @ counts).cumsum(1) for counts in (of_all, of_positive))
        gained = np.diff(hits, prepend=0.0)
        middle = (hits - gained / 2) / np.maximum(everyone - np.diff(everyone, prepend=0.0) / 2, 1e-300)
        return (middle * gained).sum(1) / hits[:, -1]


def _descending(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns whether images are positive from the highest score down, their order, and where equal scores end, int."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return positive[order].astype(np.float64), order, np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)


def _precision(weights: np.ndarray, positive: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns average precision for each row of weights, float64 [rows], of images in descending order; NaN without a positive."""
    everyone = np.cumsum(weights, axis=1)[:, ends]
    hits = np.cumsum(weights * positive, axis=1)[:, ends]
    precision = np.divide(hits, everyone, out=np.zeros_like(hits), where=everyone > 0)
    with np.errstate(invalid="ignore"):
        return (precision * np.diff(hits, axis=1, prepend=0.0)).sum(1) / hits[:, -1]
