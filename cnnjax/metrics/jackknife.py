"""Intervals of any metric by leaving out one group at a time, with Student's t on a scale where the metric is free of bounds.

A group is what was sampled: a patient with all of their images, else an image by itself. No random numbers: the same file gives the
same interval on every machine. Sources: Efron & Stein 1981 (jackknife); Kish 1965 (groups that count); Satterthwaite 1946 (degrees
of freedom from the kurtosis of the contributions); Wilson 1927 (proportions without groups).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

FEWEST = 10  # groups below which an interval is not given
COUNTING = 5.0  # effective groups below which it is not given
FEW = 10.0  # effective groups below which it is given with a warning

# name -> (scale, its inverse, its derivative)
LINKS: dict[str, tuple[Callable, Callable, Callable]] = {
    "logit": (logit, expit, lambda m: 1 / (m * (1 - m))),
    "atanh": (np.arctanh, np.tanh, lambda m: 1 / (1 - m * m)),
    "log": (np.log, np.exp, lambda m: 1 / m),
    "identity": (float, float, lambda m: 1.0),
}
ENDS = {"logit": (0.0, 1.0), "atanh": (-1.0, 1.0), "log": (0.0, math.inf), "identity": (-math.inf, math.inf)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A number with its interval.

    Attributes:
        value: of all groups; None where it is not defined.
        low, high: the interval; None where it is not given. One of them alone is a one-sided bound.
        se: standard error; None where there is none.
        df: degrees of freedom of t; None where there is none.
        groups: number of groups.
        effective: groups that count: fewer, where few groups hold most of the images.
        method: "jackknife", "wilson", "bound", "nadeau-bengio" or "".
        note: why there is no interval, or what to beware of; "".
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    df: float | None = None
    groups: int = 0
    effective: float = 0.0
    method: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The group of each image.

    Attributes:
        index: int [n], the group of each image, in [0, count).
        names: text [count], sorted; of images without a group, "".
        named: whether the data has groups; else each image is its own.
        unit: what a group is in words, for notes: "patient", "group", or "image".
    """

    index: np.ndarray
    names: Sequence[str]
    named: bool
    unit: str = "group"

    @classmethod
    def of(cls, names: Sequence[str], unit: str = "group") -> "Groups":
        """Returns the groups of images by name; an image without a name is a group by itself."""
        named = np.fromiter((bool(name) for name in names), bool, len(names))
        if not named.any():
            return cls(np.arange(len(names)), [""] * len(names), named=False, unit="image")
        distinct, index = np.unique(np.asarray(names, object)[named].astype(str), return_inverse=True)
        whole = np.empty(len(names), np.int64)
        whole[named] = index
        whole[~named] = len(distinct) + np.arange((~named).sum())
        return cls(whole, [*distinct.tolist(), *[""] * int((~named).sum())], named=True, unit=unit)

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.names)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of each group, float64 [count], of numbers or booleans [n]."""
        return np.bincount(self.index, np.asarray(values, np.float64), minlength=self.count)


def effective(counts: np.ndarray) -> float:
    """Returns Kish's number of groups that count, of what each group holds, float [groups]."""
    squares = float((counts**2).sum())
    return float(counts.sum()) ** 2 / squares if squares else 0.0


def jackknife(value: float | None, without: np.ndarray, counting: float, *, link: str, level: float = 0.95, unit: str = "group",
              least: float = -math.inf, most: float = math.inf, count: int = 0) -> Score:  # fmt: skip
    """Returns a metric with its interval.

    Args:
        value: of all groups; None or NaN where it is not defined.
        without: float [groups], the metric without each group, or without each of some blocks of them; NaN where it is not defined then.
        counting: groups that count, from `effective`.
        link: a key of `LINKS`.
        level: of confidence.
        unit: what a group is, for the note.
        least, most: bounds to which the interval is clipped.
        count: number of groups, where `without` is of blocks.
    """
    parts, count = len(without), count or len(without)
    known = {"groups": count, "effective": float(counting)}
    if value is None or not math.isfinite(value):
        return Score(value=None, note="not defined for these images", **known)
    value = float(value)
    if count < FEWEST or counting < COUNTING:
        return Score(
            value=value,
            note=f"{count} {unit}s, of which {counting:.1f} count: too few for an interval; it takes {FEWEST}, and {COUNTING:.0f} that count",
            **known,
        )
    if not np.isfinite(without).all():
        return Score(value=value, note=f"one {unit} alone decides whether it is defined: no interval", **known)
    away = without.mean() - without
    spread = float((away**2).sum())
    low_end, high_end = ENDS[link]
    if spread <= 1e-30 or value in (low_end, high_end):
        return _bound(value, counting, level, link, known)
    se = math.sqrt((parts - 1) / parts * spread)
    kurtosis = parts * float((away**4).sum()) / spread**2
    df = max(1.0, min(counting - 1, 2 * parts / (kurtosis - 1) if kurtosis > 1 else math.inf))
    to, back, slope = LINKS[link]
    reach = float(stdtrit(df, 0.5 + level / 2)) * se * slope(value)
    low, high = (float(back(to(value) + side * reach)) for side in (-1, 1))
    note = f"fewer than ten {unit}s count" if counting < FEW else ""
    return Score(
        value=value, low=max(low, least), high=min(high, most), se=se, df=df, method="jackknife", note=note, **known
    )


def _bound(value: float, counting: float, level: float, link: str, known: dict) -> Score:
    """Returns a one-sided bound for a perfect value, and none for a value that no group changes."""
    low_end, high_end = ENDS[link]
    bound = (1 - level) ** (1 / counting)
    if link == "logit" and value == high_end:
        return Score(value=value, low=bound, method="bound", note="perfect here: at least", **known)
    if link == "logit" and value == low_end:
        return Score(value=value, high=1 - bound, method="bound", note="none here: at most", **known)
    return Score(value=value, note="the same without any of them", **known)


def wilson(right: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's interval of a proportion, for images that are independent of each other."""
    z = float(ndtri(0.5 + level / 2))
    share, whole = right / count, 1 + z * z / count
    middle, reach = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max((middle - reach) / whole, 0.0), min((middle + reach) / whole, 1.0)


def proportion(hits: np.ndarray, among: np.ndarray, groups: Groups, level: float = 0.95) -> Score:
    """Returns the share of `hits` among images, with its interval: by groups, else Wilson's.

    Args:
        hits: bool [n].
        among: bool [n], the images that count.
        groups: of all n images.
        level: of confidence.
    """
    hit, size = groups.sums(hits & among), groups.sums(among)
    if not size.sum():
        return Score(value=None, groups=groups.count, note="not defined for these images")
    value = float(hit.sum() / size.sum())
    if not groups.named:
        low, high = wilson(hit.sum(), size.sum(), level)
        return Score(value=value, low=low, high=high, groups=int(size.sum()), effective=float(size.sum()), method="wilson")
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (hit.sum() - hit) / (size.sum() - size)
    return jackknife(value, without, effective(size), link="logit", level=level, unit=groups.unit)


def auc_without(scores: np.ndarray, positive: np.ndarray, groups: Groups) -> tuple[float, np.ndarray]:
    """Returns the area under the ROC curve of all groups, and float64 [groups] without each of them; NaN where a class is missing.

    Pairs of a positive and a negative image, of which the positive one has the higher score; equal scores count half. No matrix of
    groups by groups: the pairs that a group takes part in are counted in the whole order and within the group.

    Args:
        scores: float [n], without NaN.
        positive: bool [n].
        groups: of the images.
    """
    wins = _wins(scores, positive)
    half = groups.sums(np.where(positive, wins, 0.0)), groups.sums(np.where(positive, 0.0, wins))
    order = np.argsort(groups.index, kind="stable")
    own = np.zeros(groups.count)
    edges = np.searchsorted(groups.index[order], np.arange(groups.count + 1))
    for g in np.flatnonzero((groups.sums(positive) > 0) & (groups.sums(~positive) > 0)):
        rows = order[edges[g] : edges[g + 1]]
        own[g] = _wins(scores[rows], positive[rows])[positive[rows]].sum()
    p, q, total = groups.sums(positive), groups.sums(~positive), half[0].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        value = total / (p.sum() * q.sum())
        without = (total - half[0] - half[1] + own) / ((p.sum() - p) * (q.sum() - q))
    return float(value), without


def _wins(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Returns for each positive image the negatives below it, for each negative the positives above it, ties as halves: float64 [n]."""
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    wins = np.empty(len(scores))
    wins[positive] = sum(np.searchsorted(low, scores[positive], side) for side in ("left", "right")) / 2
    wins[~positive] = len(high) - sum(np.searchsorted(high, scores[~positive], side) for side in ("left", "right")) / 2
    return wins
