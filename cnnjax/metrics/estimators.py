"""Metrics that are known of all images, without each group, and of groups drawn again, all from sums of each group.

A metric that is a plain function of predictions is computed anew without each group (`ByDeletion`).
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np

from cnnjax.metrics.jackknife import Groups
from cnnjax.metrics.predictions import Predictions

MOST = 400  # groups above which a metric without sums is computed without blocks of groups
BLOCKS = 200
NUMBERS = 2**20  # sums that are held at once


class Estimator:
    """A metric; called with predictions, it returns the value, None where that is not defined."""

    proportion = False  # a share of images: without groups, Wilson's interval holds

    def __call__(self, p: Predictions) -> float | None:
        raise NotImplementedError

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        """Returns the metric without each group, or without each of `BLOCKS` blocks of groups, float64; NaN where it is not defined."""
        raise NotImplementedError

    def resampled(self, p: Predictions, groups: Groups, weights: np.ndarray) -> np.ndarray | None:
        """Returns the metric with groups counted `weights` times, float64 [draws]; None where there is no quick way.

        Args:
            p: predictions.
            groups: of the images.
            weights: float64 [draws, groups].
        """
        return None


class ByDeletion(Estimator):
    """A function of predictions, computed anew without each group."""

    def __init__(self, of: Callable[[Predictions], float | None]):
        self._of = of

    def __call__(self, p: Predictions) -> float | None:
        return self._of(p)

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        index = blocks(p, groups)
        values = (self._of(p.kept(index != i)) for i in range(index.max() + 1))
        return np.array([math.nan if value is None else value for value in values], np.float64)


class Ratio(Estimator):
    """A sum over images divided by another, such as a mean or a share of some images.

    Args:
        of: predictions -> (numbers or booleans [n], those that they are divided by [n]).
        proportion: the first are booleans that imply the second.
    """

    def __init__(self, of: Callable[[Predictions], tuple[np.ndarray, np.ndarray]], *, proportion: bool = False):
        self.of, self.proportion = of, proportion

    def __call__(self, p: Predictions) -> float | None:
        above, below = self.of(p)
        return float(above.sum() / below.sum()) if below.any() else None

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        above, below = self._sums(p, groups)
        return (above.sum() - above) / (below.sum() - below)

    def resampled(self, p: Predictions, groups: Groups, weights: np.ndarray) -> np.ndarray:
        above, below = self._sums(p, groups)
        return (weights @ above) / (weights @ below)

    def _sums(self, p: Predictions, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
        above, below = self.of(p)
        return groups.sums(above), groups.sums(below)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Images by class: one set of counts, or many of them along the axes before the last.

    Attributes:
        right: float64 [..., classes], images of a class that are called so.
        true: images of a class.
        called: images that are called so.
        there: bool [classes], classes with images in the whole.
        positive: the positive class of two, -1 for more classes.
        prevalence: of the positive class in use; 0: not stated.
    """

    right: np.ndarray
    true: np.ndarray
    called: np.ndarray
    there: np.ndarray
    positive: int
    prevalence: float

    @property
    def all(self) -> np.ndarray:
        """Number of images, float64 [...]."""
        return self.true.sum(-1)

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images of two classes: positives that are called positive, those that are not, negatives called positive, those that are not."""
        one = self.positive
        hit, true, called = self.right[..., one], self.true[..., one], self.called[..., one]
        return hit, true - hit, called - hit, self.all - true - called + hit

    def changed(self, change: Callable[..., np.ndarray], *others: "Counts") -> "Counts":
        """Returns the counts after a change of each, such as those of `others` taken away."""
        return dataclasses.replace(self, **{name: change(getattr(self, name), *(getattr(other, name) for other in others))
                                            for name in ("right", "true", "called")})  # fmt: skip


class OfCounts(Estimator):
    """A function of `Counts`, which works along their last axis."""

    def __init__(self, of: Callable[[Counts], np.ndarray]):
        self.of = of

    def __call__(self, p: Predictions) -> float | None:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(self.of(_whole(p)))
        return value if math.isfinite(value) else None

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        total, inverse = _whole(p), None
        if not groups.named:  # images of one class that are called the same are the same to every count
            _, first, inverse = np.unique(p.labels * p.classes + p.called, return_index=True, return_inverse=True)
            p, groups = p.kept(first), Groups(np.arange(len(first)), [""] * len(first), named=False)
        parts = [self.of(total.changed(np.subtract, part)) for part in _by_group(p, groups)]
        without = np.concatenate(parts)
        return without if inverse is None else without[inverse]

    def resampled(self, p: Predictions, groups: Groups, weights: np.ndarray) -> np.ndarray:
        every = [*_by_group(p, groups)]
        whole = every[0].changed(lambda *parts: np.concatenate(parts), *every[1:])
        return self.of(whole.changed(lambda counts: weights @ counts))


def _codes(p: Predictions) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the true and the called class of each image, int [n], and the number of classes: of more than two, those that occur."""
    if p.classes == 2:
        return p.labels, p.called, 2
    occurring, codes = np.unique(np.concatenate([p.labels, p.called]), return_inverse=True)
    return codes[: len(p.labels)], codes[len(p.labels) :], len(occurring)


def _by_group(p: Predictions, groups: Groups) -> Iterator[Counts]:
    """Yields the counts of groups, [groups, classes], in parts of about `NUMBERS` counts."""
    labels, called, classes = _codes(p)
    there = np.bincount(labels, minlength=classes) > 0
    order = np.argsort(groups.index, kind="stable")
    edges = np.searchsorted(groups.index[order], np.arange(groups.count + 1))
    step = max(NUMBERS // classes, 1)
    for low in range(0, groups.count, step):
        high = min(low + step, groups.count)
        rows = order[edges[low] : edges[high]]
        row, true, said = (groups.index[rows] - low) * classes, labels[rows], called[rows]
        places = (row[true == said] + true[true == said], row + true, row + said)
        counted = (
            np.bincount(place, minlength=(high - low) * classes).reshape(-1, classes).astype(float) for place in places
        )
        yield Counts(*counted, there, p.positive, p.prevalence)


def _whole(p: Predictions) -> Counts:
    """Returns the counts of all images, float64 [classes]."""
    (counts,) = _by_group(p, Groups(np.zeros(len(p.labels), int), [""], named=True))
    return counts.changed(lambda count: count[0])


def blocks(p: Predictions, groups: Groups) -> np.ndarray:
    """Returns the group of each image, or of more than `MOST` groups the block of whole groups, int [n].

    The blocks are dealt in the order of SHA-256 of the names, of images without a name of their logits. The order of the rows
    therefore changes nothing.
    """
    if groups.count <= MOST:
        return groups.index
    first = np.full(groups.count, -1)
    first[groups.index[::-1]] = np.arange(len(groups.index))[::-1]

    def digest(group: int) -> bytes:
        row = first[group]
        numbers = np.ascontiguousarray(p.logits[row], np.float64).tobytes() + bytes(str(p.labels[row]), "ascii")
        return hashlib.sha256(groups.names[group].encode("utf-8", "surrogatepass") or numbers).digest()

    block = np.empty(groups.count, np.int64)
    block[sorted(range(groups.count), key=digest)] = np.arange(groups.count) * BLOCKS // groups.count
    return block[groups.index]


class CalibrationError(Estimator):
    """The expected calibration error: mean distance of the share that is right from the probability, in bins of equal mass.

    Of two classes the probability is that of the positive one, of more that of the most probable class. The edges are those of all
    images, equal probabilities stay in one bin (Guo 2017; bins of equal mass: Nguyen and O'Connor 2015).

    Args:
        bins: number of bins.
    """

    def __init__(self, bins: int = 15):
        self.bins = bins

    def __call__(self, p: Predictions) -> float | None:
        return float(self._of(*(sums.sum(0) for sums in self._sums(p, np.zeros(len(p.labels), int), 1))))

    def without(self, p: Predictions, groups: Groups) -> np.ndarray:
        count, away = self._sums(p, groups.index, groups.count)
        return self._of(count.sum(0) - count, away.sum(0) - away)

    def _of(self, count: np.ndarray, away: np.ndarray) -> np.ndarray:
        return np.abs(away).sum(-1) / count.sum(-1)

    def _sums(self, p: Predictions, index: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, and the sum of right minus probability, of each bin of each group, float64 [groups, bins]."""
        probabilities, right = confidence(p)
        ordered = np.sort(probabilities)
        edges = np.unique(ordered[np.arange(1, self.bins) * len(ordered) // self.bins])
        bins = len(edges) + 1
        place = index * bins + np.searchsorted(edges, probabilities, side="right")
        sums = (
            np.bincount(place, values, minlength=groups * bins).reshape(groups, bins)
            for values in (None, right - probabilities)
        )
        return tuple(sums)


def confidence(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability that calibration is about, float64 [n], and whether it came true, bool [n]."""
    if p.classes == 2:
        return p.by_rows(lambda rows, labels: rows[:, p.positive]), p.is_positive
    return p.by_rows(lambda rows, labels: rows.max(1)), p.by_rows(lambda rows, labels: rows.argmax(1) == labels) > 0


def estimator(of: Callable[[Predictions], float | None]) -> Estimator:
    """Returns a metric's function as an estimator."""
    return of if isinstance(of, Estimator) else ByDeletion(of)
