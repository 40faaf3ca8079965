"""Several trainings that differ in the seed alone: how much of a metric is the seed's luck, and how much the patients'."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from cnnjax.metrics.comparison import Part
from cnnjax.metrics.jackknife import COUNTING, ENDS, FEWEST, LINKS


@dataclasses.dataclass(frozen=True)
class Components:
    """Variance of a metric over seeds and groups.

    Attributes:
        mean: over seeds and groups.
        seed, group, rest: variances between seeds, between groups, and of what both leave; an estimate below 0 is 0.
        se_mean: standard error of this mean, for new groups and new seeds.
        se_future: standard error of this mean as the value of one more training on many more groups.
        df_mean, df_future: degrees of freedom of the two, Satterthwaite's.
    """

    mean: float
    seed: float
    group: float
    rest: float
    se_mean: float
    se_future: float
    df_mean: float
    df_future: float


def components(matrix: np.ndarray) -> Components:
    """Estimates the variances of seeds and groups: two-way random effects without replication, by analysis of variance.

    Sources: Searle, Casella & McCulloch 1992, chapter 4 (estimators); Satterthwaite 1946 (degrees of freedom); Bouthillier et al. 2021
    (both kinds of chance belong to a benchmark). Their deviation of one training, the root of group/G + seed + rest/G, leaves out that
    the mean is estimated too: around it, intervals from 3 seeds on 12 or 30 groups covered 93 % and 89 %, these 95 % and 91 % (2,000
    draws, a deviation of 0.02 between seeds and of 0.05 between groups), and both 95 to 97 % where seeds differ by 0.005.

    Args:
        matrix: float [seeds, groups], two or more of each.
    """
    seeds, groups = matrix.shape
    mean, rows, columns = matrix.mean(), matrix.mean(1), matrix.mean(0)
    own = (seeds - 1, groups - 1, (seeds - 1) * (groups - 1))
    of_seed = groups * float(((rows - mean) ** 2).sum()) / own[0]
    of_group = seeds * float(((columns - mean) ** 2).sum()) / own[1]
    rest = float(((matrix - rows[:, None] - columns + mean) ** 2).sum()) / own[2]
    squares = (of_seed, of_group, rest)
    seed, group = max(of_seed - rest, 0.0) / groups, max(of_group - rest, 0.0) / seeds
    se_mean = math.sqrt(group / groups + seed / seeds + rest / (seeds * groups))
    se_future = math.hypot(se_mean, math.sqrt(seed))
    part = 1 / (seeds * groups)
    df = [
        _freedom(se, (more + part, part, more + part), squares, own)
        for se, more in ((se_mean, 0.0), (se_future, 1 / groups))
    ]
    return Components(float(mean), seed, group, rest, se_mean, se_future, *df)


def _freedom(se: float, shares: Sequence[float], squares: Sequence[float], own: Sequence[int]) -> float:
    """Degrees of freedom of a variance that adds and takes off `shares` of mean squares."""
    below = sum((share * square) ** 2 / df for share, square, df in zip(shares, squares, own, strict=True))
    return max(1.0, se**4 / below) if below else 1.0


@dataclasses.dataclass(frozen=True)
class SeedScore:
    """A metric over seeds.

    Attributes:
        values: of each seed.
        mean: their mean.
        sd_seeds: standard deviation between seeds on these groups, the rest taken off; None without `components`.
        sd_groups: between groups, likewise.
        mean_low, mean_high: interval of the mean of such trainings, for groups and seeds like these; None where it is not given.
        future_low, future_high: interval of one more training.
        note: why there are no intervals; "".
    """

    values: Sequence[float]
    mean: float
    sd_seeds: float | None = None
    sd_groups: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    future_low: float | None = None
    future_high: float | None = None
    note: str = ""


def over_seeds(runs: Sequence[Part], link: str, level: float = 0.95, unit: str = "group") -> SeedScore:
    """Returns a metric of trainings that differ in the seed, with both intervals.

    The matrix of seeds by groups holds pseudo-values, G m - (G - 1) m without the group (Tukey 1958): of groups of equal size and
    the accuracy they are each group's accuracy, and every metric has them.

    Args:
        runs: the metric of each training, two or more, on the same groups.
        link: the scale of the intervals, a key of `LINKS`; instead of "log", identity cut off at 0.
        level: of the intervals.
        unit: a group in words.
    """
    values = [run.value for run in runs]
    mean, count, counting = float(np.mean(values)), len(runs[0].without), runs[0].counting
    if count < FEWEST or counting < COUNTING:
        return SeedScore(values, mean, note=f"{count} {unit}s, of which {counting:.1f} count: too few for an interval")
    without = np.stack([run.without for run in runs])
    if not np.isfinite(without).all():
        return SeedScore(values, mean, note=f"one {unit} alone decides whether it is defined: no interval")
    found = components(count * np.array(values)[:, None] - (count - 1) * without)
    if mean in ENDS[link]:
        return SeedScore(values, mean, note="perfect, or the worst, in all of them: no interval")
    # On a logarithmic scale two seeds that differ much would give an end beyond all numbers.
    ends, (to, back, slope) = [], LINKS["identity" if link == "log" else link]
    for se, df in ((found.se_mean, found.df_mean), (found.se_future, found.df_future)):
        reach = float(stdtrit(df, 0.5 + level / 2)) * se * slope(mean)
        ends += [max(float(back(to(mean) + sign * reach)), ENDS[link][0]) for sign in (-1, 1)]
    return SeedScore(values, mean, math.sqrt(found.seed), math.sqrt(found.group), *ends)
