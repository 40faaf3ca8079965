"""Metrics of the predictions of all folds of a cross-validation.

Thresholds and probabilities are judged on all predictions at once. Orders are judged within each fold and averaged: the scores of
different networks share no scale.
"""

import dataclasses

import numpy as np

from cnnjax.metrics.estimators import Estimator, estimator
from cnnjax.metrics.intervals import rows, score
from cnnjax.metrics.jackknife import Groups, Score
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.table import METRICS

ORDERS = ("auc", "macro_auc", "average_precision")  # averaged over folds


class Within(Estimator):
    """The mean over folds of a metric within each.

    Args:
        of: the metric.
        folds: int [n], the fold of each image.
    """

    def __init__(self, of: Estimator, folds: np.ndarray):
        self._of, self._rows = of, [folds == fold for fold in np.unique(folds)]

    def __call__(self, p: Predictions) -> float | None:
        values = [self._of(p.kept(inside)) for inside in self._rows]
        return None if None in values else float(np.mean(values))

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        mean, parts, blocked = self(p), [], False
        whole = np.full(groups.count, np.nan if mean is None else mean)
        for inside in self._rows if mean is not None else ():
            own = p.kept(inside)
            present, index = np.unique(groups.index[inside], return_inverse=True)
            left = self._of.without(own, dataclasses.replace(groups, index=index, names=[groups.names[g] for g in present]))
            parts.append((left - self._of(own)) / len(self._rows))
            if len(left) == len(present):
                whole[present] += parts[-1]
            else:  # blocks of groups, each within one fold
                blocked = True
        return mean + np.concatenate(parts) if blocked else whole


def pooled(p: Predictions, folds: np.ndarray, groups: Groups, *, level: float = 0.95) -> dict[str, Score]:
    """Returns every metric with its interval, by its name in `METRICS`.

    Args:
        p: predictions of all images, each once.
        folds: int [n], the fold of each image.
        groups: of the images.
        level: of confidence.
    """
    found = {}
    for name, metric in rows(p).items():
        if name in ORDERS:
            metric = dataclasses.replace(metric, of=Within(estimator(metric.of), folds))
        found[name] = score(metric, p, groups, level=level)
    return found


def numbers(p: Predictions) -> dict[str, float | int | None]:
    """Returns every metric that such predictions have, by its name in `METRICS`; None where it is not finite."""
    found = {}
    for name, metric in METRICS.items():
        if metric.needs(p.classes) and (p.prevalence or not metric.stated):
            with np.errstate(invalid="ignore", divide="ignore"):
                value = metric.of(p)
            found[name] = value if value is not None and np.isfinite(value) else None
    return found
