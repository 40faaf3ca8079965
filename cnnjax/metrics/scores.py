"""Scores of each example and of an order: probabilities, cross-entropy, area under the ROC curve. In float64, on the host."""

import math
from collections.abc import Callable, Iterator

import numpy as np

NUMBERS = 2**15  # logits whose probabilities are held at once


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns float64 [n, classes], of logits [n, classes] or of logits [n, 1] of the second of two classes."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the cross-entropy of each example in nats, float64 [n], of logits as in `probabilities` and int labels [n]."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    top = z.max(1)
    return top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(z)), labels]


def slices(logits: np.ndarray) -> Iterator[slice]:
    """Yields the rows in parts of about `NUMBERS` logits; all of them in float64 would take more memory than anything else."""
    step = max(NUMBERS // logits.shape[1], 1)
    return (slice(at, at + step) for at in range(0, max(len(logits), 1), step))


def by_rows(function: Callable[..., np.ndarray], out: np.ndarray, logits: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """Fills `out` in parts with `function(logits, *more)`, whose rows depend on one row each, and returns it."""
    for part in slices(logits):
        out[part] = function(*(rows[part] for rows in (logits, *more)))
    return out


def called(logits: np.ndarray) -> np.ndarray:
    """Returns the most probable class of each example, int32 [n], of logits as in `probabilities`."""
    return by_rows(lambda part: probabilities(part).argmax(1), np.empty(len(logits), np.int32), logits)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN where a score is NaN.

    The area is the share of pairs of a positive and a negative example in which the positive one has the higher score. Equal
    scores count half. The count is exact: whole numbers until the last division.

    Args:
        scores: float [n].
        positive: bool [n], some true and some false.
    """
    if np.isnan(scores).any():
        return math.nan
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    pairs = sum(int(np.searchsorted(low, high, side).sum()) for side in ("left", "right"))
    return pairs / (2 * len(high) * len(low))
