"""Two networks on the same images: differences with intervals, and how often chance alone makes one as large.

Groups are what was sampled, so whole groups are left out and whole groups change sides. Sources: Efron & Stein 1981 (jackknife of
the difference); Fisher 1935 (sign flips); Holm 1979 (several pairs); McNemar 1947 and DeLong 1988, for images without groups only:
of two equal networks on cells of 40 patients these call 49 % and 63 % different at 5 %, sign flips 3.5 %.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife

ENUMERATED = 16  # groups that differ up to which all signs are tried
DRAWS = 9999
COMPARED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc", "log_loss", "brier")  # rows of `METRICS`
SMALLEST = 1e-300  # probability below which the log loss is no higher


@dataclasses.dataclass(frozen=True)
class Side:
    """Answers of one network.

    Attributes:
        called: int [n], the class of each image.
        probabilities: float64 [n, classes].
        scores: float64 [n], higher for the positive class of two, of which the order counts; None for more classes.
    """

    called: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A metric taken apart into groups.

    Attributes:
        value: of all groups.
        without: float64 [groups], without each of them; NaN where it is not defined then.
        own: float64 [groups] whose sum is the value; None for a metric that is not a sum.
        counting: groups that count.
    """

    value: float
    without: np.ndarray
    own: np.ndarray | None
    counting: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two networks.

    Attributes:
        a, b: its values.
        score: b - a with its interval.
        p: probability of a difference as large between equal networks; None where there is no test.
        test: of that probability, in words; "".
    """

    a: float
    b: float
    score: Score
    p: float | None
    test: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """Network B against network A.

    Attributes:
        metrics: name -> difference.
        better, worse, equal: groups where B has more, fewer and as many images right.
        gained, lost: images that only B, and only A, has right.
    """

    metrics: Mapping[str, Difference]
    better: int
    worse: int
    equal: int
    gained: int
    lost: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree that JSON holds."""
        return dataclasses.asdict(self)


def parts(side: Side, labels: np.ndarray, groups: Groups, positive: int) -> dict[str, Part]:
    """Returns the metrics of `COMPARED` that are defined, by name, taken apart into groups.

    Args:
        side: the answers.
        labels: int [n].
        groups: of the images.
        positive: the positive class of two; -1 for more classes.
    """
    p, right, every = side.probabilities, side.called == labels, np.ones(len(labels), bool)
    chosen = p[np.arange(len(labels)), labels]
    counting = effective(groups.sums(every))
    found = {"accuracy": _mean(right, every, groups)}
    classes = [_mean(right, labels == label, groups) for label in np.unique(labels)]
    if positive >= 0:
        yes = labels == positive
        found |= {"sensitivity": _mean(right, yes, groups), "specificity": _mean(right, ~yes, groups)}
        fewest = min(effective(groups.sums(yes)), effective(groups.sums(~yes)))
        brier = (1 - chosen) ** 2
    else:
        fewest = counting
        brier = (p**2).sum(1) - 2 * chosen + 1
    found["balanced_accuracy"] = Part(sum(c.value for c in classes) / len(classes), sum(c.without for c in classes) / len(classes),
                                      sum(c.own for c in classes) / len(classes), fewest)  # fmt: skip
    if positive >= 0 and side.scores is not None and 0 < yes.sum() < len(yes):
        value, without = auc_without(side.scores, yes, groups)
        found["auc"] = Part(value, without, None, fewest)
    found["log_loss"] = _mean(-np.log(np.maximum(chosen, SMALLEST)), every, groups)
    found["brier"] = _mean(brier, every, groups)
    return {name: found[name] for name in COMPARED if name in found and math.isfinite(found[name].value)}


def _mean(values: np.ndarray, among: np.ndarray, groups: Groups) -> Part:
    """The mean of numbers [n] over the images `among`, bool [n]."""
    sums, sizes = groups.sums(np.where(among, values, 0)), groups.sums(among)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, own = float(sums.sum() / sizes.sum()), sums / sizes.sum()
        return Part(value, (sums.sum() - sums) / (sizes.sum() - sizes), own, effective(sizes))


def compared(labels: np.ndarray, a: Side, b: Side, groups: Groups, positive: int, level: float = 0.95) -> Pair:
    """Compares network B with network A on the same images.

    With groups, a probability is by sign flips of whole groups, of the AUC by Student's t of the jackknife. Without groups, it is
    McNemar's, of the AUC DeLong's, of other metrics by Student's t.

    Args:
        labels: int [n].
        a, b: the answers.
        groups: of the images.
        positive: the positive class of two; -1 for more classes.
        level: of the intervals.
    """
    before, after = (parts(side, labels, groups, positive) for side in (a, b))
    right = [side.called == labels for side in (a, b)]
    among = {"accuracy": np.ones(len(labels), bool), "sensitivity": labels == positive, "specificity": labels != positive}
    found = {}
    for name in (name for name in before if name in after):
        one, two = before[name], after[name]
        score = jackknife(two.value - one.value, two.without - one.without, one.counting, link="identity", level=level,
                          unit=groups.unit)  # fmt: skip
        if groups.named and one.own is not None:
            p, test = sign_flips(two.own - one.own), f"sign flips of {groups.unit}s"
        elif not groups.named and name in among:
            p, test = mcnemar(right[0][among[name]], right[1][among[name]]), "McNemar's test"
        elif not groups.named and name == "auc":
            p, test = delong(a.scores, b.scores, labels == positive), "DeLong's test"
        else:
            p, test = student(score), "Student's t"
        found[name] = Difference(one.value, two.value, score, p, test if p is not None else "")
    more = groups.sums(right[1]) - groups.sums(right[0])
    return Pair(
        found, *(int(count.sum()) for count in (more > 0, more < 0, more == 0, right[1] & ~right[0], right[0] & ~right[1]))
    )


def sign_flips(differences: np.ndarray) -> float:
    """Returns the share of exchanges of the networks, group by group, after which the difference is as large or larger.

    All exchanges where `ENUMERATED` groups differ or fewer, else `DRAWS` of them from `default_rng(0)` and the one that was seen.

    Args:
        differences: float [groups], what each group adds to the difference.
    """
    own = differences[differences != 0]
    seen = abs(own.sum()) - 1e-9 * np.abs(own).sum()  # sums of the same numbers in another order are equal
    if len(own) <= ENUMERATED:
        totals = np.zeros(1)
        for change in own:
            totals = np.concatenate([totals - change, totals + change])
        return float((np.abs(totals) >= seen).mean())
    rng, rows = np.random.default_rng(0), max(2**20 // len(own), 1)
    hits = sum(int((np.abs((rng.random((min(rows, DRAWS - at), len(own))) < 0.5) @ (2 * own) - own.sum()) >= seen).sum())
               for at in range(0, DRAWS, rows))  # fmt: skip
    return (1 + hits) / (1 + DRAWS)


def student(score: Score) -> float | None:
    """Returns the two-sided probability of a difference with its standard error; None without one."""
    return float(2 * stdtr(score.df, -abs(score.value) / score.se)) if score.se else None


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Returns McNemar's exact probability, of bool [n], whether each image is right: for images that are independent."""
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    from scipy.stats import binomtest  # half a second to import, which no training needs

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def delong(a: np.ndarray, b: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns DeLong's probability of the difference of two AUC, for images that are independent; None with too few of a class.

    Args:
        a, b: float [n], the scores.
        positive: bool [n].
    """
    count = positive.sum(), (~positive).sum()
    if min(count) < 2:
        return None
    wins = _placements(b, positive) - _placements(a, positive)
    difference = wins[positive].mean()
    variance = wins[positive].var(ddof=1) / count[0] + wins[~positive].var(ddof=1) / count[1]
    return float(2 * ndtr(-abs(difference) / math.sqrt(variance))) if variance > 0 else float(difference == 0)


def _placements(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The share of the other class on the right side of each image, ties as halves: float64 [n]."""
    from scipy.stats import rankdata

    below = rankdata(scores)
    for own in (positive, ~positive):
        below[own] -= rankdata(scores[own])
    return np.where(positive, below / (~positive).sum(), 1 - below / positive.sum())


def holm(probabilities: Sequence[float | None]) -> list[float | None]:
    """Returns probabilities that hold for all of several comparisons together, Holm's; None stays."""
    order = sorted((p, i) for i, p in enumerate(probabilities) if p is not None)
    raised = itertools.accumulate((min(1.0, p * (len(order) - rank)) for rank, (p, _) in enumerate(order)), max)
    found: list[float | None] = [None] * len(probabilities)
    for (_, i), p in zip(order, raised, strict=True):
        found[i] = p
    return found
