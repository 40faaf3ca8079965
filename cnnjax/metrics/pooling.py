"""Predictions of all folds of a cross-validation put together, with intervals over groups.

Thresholds and probabilities are judged on all predictions at once. Orders are judged within each fold and averaged: the scores of
different networks share no scale.
"""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion

BLOCKS = 200  # of whole groups that are left out one at a time, where a metric is computed anew for each
LEAST = 1e-300  # probability below which a logarithm is not taken
ORDERS = ("auc", "average_precision")  # averaged over folds


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Predictions of all folds, each image once.

    Attributes:
        probabilities: float64 [n, classes].
        margin: float64 [n], the score of the positive class of two; of more classes without a meaning.
        labels: int [n].
        called: int [n], the class that each network has called.
        folds: int [n], which network.
        groups: of the images.
        positive: the positive class of two; -1 for more classes.
    """

    probabilities: np.ndarray
    margin: np.ndarray
    labels: np.ndarray
    called: np.ndarray
    folds: np.ndarray
    groups: Groups
    positive: int

    def scores(self, level: float = 0.95) -> dict[str, Score]:
        """Returns each metric with its interval, by name."""
        everyone, right = np.ones(len(self.labels), bool), self.called == self.labels
        found = {"loss": self._mean(self._loss(), level), "brier": self._mean(self._brier(), level)}
        if self.positive < 0:
            return {
                "balanced_accuracy": self._balanced(level),
                "accuracy": proportion(right, everyone, self.groups, level),
                **found,
            }
        is_positive = self.labels == self.positive
        return {
            "balanced_accuracy": self._balanced(level),
            "accuracy": proportion(right, everyone, self.groups, level),
            "auc": self._order(auc_without, level),
            "average_precision": self._order(_precision_without, level),
            "sensitivity": proportion(right, is_positive, self.groups, level),
            "specificity": proportion(right, ~is_positive, self.groups, level),
            **found,
        }

    def orders(self) -> dict[str, float]:
        """Returns the metrics of `ORDERS` on all predictions at once, of two classes, by name."""
        is_positive = self.labels == self.positive
        if self.positive < 0 or not 0 < is_positive.sum() < len(is_positive):
            return {}
        return {
            "auc": auc_without(self.margin, is_positive, self.groups)[0],
            "average_precision": _precision(self.margin, is_positive),
        }

    def _counting(self) -> float:
        """Groups that count for the rarest class of two; of more classes, for all images."""
        if self.positive < 0:
            return effective(self.groups.sums(np.ones(len(self.labels))))
        return min(effective(self.groups.sums(self.labels == label)) for label in (0, 1))

    def _loss(self) -> np.ndarray:
        own = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.maximum(own, LEAST))

    def _brier(self) -> np.ndarray:
        """The squared distance of the probability of the positive class; of more classes, of all probabilities."""
        if self.positive >= 0:
            return (self.probabilities[:, self.positive] - (self.labels == self.positive)) ** 2
        truth = np.eye(self.probabilities.shape[1])[self.labels]
        return ((self.probabilities - truth) ** 2).sum(1)

    def _mean(self, values: np.ndarray, level: float) -> Score:
        total, size = self.groups.sums(values), self.groups.sums(np.ones(len(values)))
        with np.errstate(invalid="ignore", divide="ignore"):
            without = (total.sum() - total) / (size.sum() - size)
        return jackknife(float(values.mean()), without, effective(size), link="log", level=level, unit=self.groups.unit)

    def _balanced(self, level: float) -> Score:
        labels = np.unique(self.labels)
        hits = np.stack([self.groups.sums((self.called == label) & (self.labels == label)) for label in labels])
        size = np.stack([self.groups.sums(self.labels == label) for label in labels])
        with np.errstate(invalid="ignore", divide="ignore"):
            without = ((hits.sum(1, keepdims=True) - hits) / (size.sum(1, keepdims=True) - size)).mean(0)
        value = float((hits.sum(1) / size.sum(1)).mean())
        return jackknife(value, without, self._counting(), link="logit", level=level, unit=self.groups.unit)

    def _order(self, without: Callable, level: float) -> Score:
        """The mean over folds of a metric of orders; `without` returns its value of all groups and without each of them."""
        is_positive, parts = self.labels == self.positive, []
        for fold in np.unique(self.folds):
            rows = self.folds == fold
            own = dataclasses.replace(self.groups, index=self.groups.index[rows])
            parts.append(without(self.margin[rows], is_positive[rows], own))
        value = float(np.mean([value for value, _ in parts]))
        left = np.mean([part for _, part in parts], axis=0)
        return jackknife(value, left, self._counting(), link="logit", level=level, unit=self.groups.unit)


def _precision(margin: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, margin))


def _precision_without(margin: np.ndarray, positive: np.ndarray, groups: Groups) -> tuple[float, np.ndarray]:
    """The average precision of all groups, and without each block of whole groups, [min(groups, BLOCKS)]; NaN where it is not defined."""
    block = _blocks(groups)[groups.index]
    count = min(groups.count, BLOCKS)
    value = _precision(margin, positive) if 0 < positive.sum() < len(positive) else np.nan
    without = np.full(count, value)
    for one in np.unique(block):
        rows = block != one
        without[one] = _precision(margin[rows], positive[rows]) if 0 < positive[rows].sum() < rows.sum() else np.nan
    return value, without


def _blocks(groups: Groups) -> np.ndarray:
    """The block of each group, int [groups]: a group by itself, or in the order of SHA-256 as many blocks as `BLOCKS`."""
    if groups.count <= BLOCKS:
        return np.arange(groups.count)
    keys = [hashlib.sha256(f"{name}/{place}".encode()).digest() for place, name in enumerate(groups.names)]
    order = np.argsort(np.array(keys, object), kind="stable")
    blocks = np.empty(groups.count, np.int64)
    blocks[order] = np.arange(groups.count) % BLOCKS
    return blocks
