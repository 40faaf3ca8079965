"""Intervals by drawing whole groups again, for readers who ask for them beside the default ones."""

import numpy as np
from scipy.special import ndtr, stdtrit

from cnnjax.metrics.estimators import estimator
from cnnjax.metrics.intervals import COUNTING, rows
from cnnjax.metrics.jackknife import COUNTING as LEAST
from cnnjax.metrics.jackknife import FEWEST, Groups
from cnnjax.metrics.predictions import Predictions

MOST = 2000  # groups, whose weights and pairs are held as squares


def resampled(p: Predictions, groups: Groups, draws: int, *, level: float = 0.95) -> dict[str, list[float]]:
    """Returns percentile intervals (low, high) by name, of the metrics with a quick way, from groups drawn with replacement.

    The percentiles are widened for few groups (Hesterberg 2015). Seed 0, groups in the order of their names.

    Args:
        p: predictions of a split.
        groups: of the images; without names, or more than `MOST` of them, nothing is returned.
        draws: number of resamples.
        level: of confidence.
    """
    if not groups.named or not FEWEST <= groups.count <= MOST:
        return {}
    weights = (
        np.random.default_rng(0).multinomial(groups.count, np.full(groups.count, 1 / groups.count), draws).astype(np.float64)
    )
    found = {}
    for name, row in rows(p).items():
        counting = COUNTING[row.counting](p, groups)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = estimator(row.of).resampled(p, groups, weights)
        if values is None or counting < LEAST or not np.isfinite(values).any():
            continue
        tail = ndtr(np.sqrt(counting / (counting - 1)) * stdtrit(counting - 1, (1 - level) / 2))
        found[name] = np.quantile(values[np.isfinite(values)], [tail, 1 - tail]).tolist()
    return found
