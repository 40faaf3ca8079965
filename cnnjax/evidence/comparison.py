"""The comparison of runs: each pair on the same images, or one config with several seeds; in numbers and in words."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cnnjax import config as config_lib
from cnnjax.evidence.paired import Joined, UnlikeError, join
from cnnjax.metrics import COMPARED, METRICS, Pair, SeedScore, compared, holm, over_seeds, parts
from cnnjax.progress import counted
from cnnjax.runs import RunDirectory

ENOUGH_DIFFER = 6  # groups that must differ before sign flips can give 2 / 2^6 < 0.05
SHOWN = 30  # images of which two runs say different things, in the list


@dataclasses.dataclass(frozen=True)
class Flip:
    """An image that one of two runs has right.

    Attributes:
        id, group: of the image.
        label: its class.
        a, b: the class that each run calls.
        p_a, p_b: probability of the label that each run gives.
    """

    id: str
    group: str
    label: str
    a: str
    b: str
    p_a: float
    p_b: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs compared.

    Attributes:
        names: of the runs.
        answers: the result in words, a line for each pair, or one for the seeds.
        reason: why there is no paired test; "".
        split: on which the runs were judged; "".
        level: of the intervals.
        images: that all runs have.
        groups: their number; 0 for images without groups.
        unit: a group in words.
        notes: lines about what does not fit.
        pairs: (a, b) -> the second run against the first; probabilities are Holm's where there are more than one.
        flips: (a, b) -> the images that one of the two has right, the largest changes first.
        seeds: metric -> its numbers over seeds; {} for runs that differ in more.
    """

    names: Sequence[str]
    answers: Sequence[str] = ()
    reason: str = ""
    split: str = ""
    level: float = 0.95
    images: int = 0
    groups: int = 0
    unit: str = "image"
    notes: Sequence[str] = ()
    pairs: Mapping[tuple[str, str], Pair] = dataclasses.field(default_factory=dict)
    flips: Mapping[tuple[str, str], Sequence[Flip]] = dataclasses.field(default_factory=dict)
    seeds: Mapping[str, SeedScore] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree that JSON holds."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        pairs = [{"a": a, "b": b, **pair.to_dict(), "flips": [dataclasses.asdict(flip) for flip in self.flips[a, b]]}
                 for (a, b), pair in self.pairs.items()]  # fmt: skip
        seeds = {name: dataclasses.asdict(score) for name, score in self.seeds.items()}
        del tree["flips"]
        return {**tree, "pairs": pairs, "seeds": seeds}


def compare(runs: Mapping[str, RunDirectory]) -> Comparison:
    """Compares runs on the images of their evaluations.

    Args:
        runs: name -> two or more runs, of which one config with several seeds is told apart from others.

    Raises:
        CheckpointError: an image has two labels, or a file is damaged.
    """
    try:
        joined = join(runs)
    except UnlikeError as error:
        return Comparison(names=[*runs], answers=[f"no paired test: {error}"], reason=str(error))
    configs = [run.read_config() for run in runs.values()]
    level = float(configs[0]["evidence"]["level"])
    known: dict[str, Any] = dict(names=[*runs], split=joined.split, level=level, images=len(joined.ids), unit=joined.groups.unit, notes=joined.notes,
                                 groups=joined.groups.count if joined.groups.named else 0)  # fmt: skip
    if all(_differ_in_seed(configs[0], other) for other in configs[1:]):
        seeds = _over_seeds(joined, level)
        return Comparison(answers=[_seeds_text([config["seed"] for config in configs], seeds, level)], seeds=seeds, **known)
    names = [*itertools.combinations(joined.sides, 2)]
    pairs = [
        compared(joined.labels, joined.sides[a], joined.sides[b], joined.groups, joined.positive, level) for a, b in names
    ]
    pairs = dict(zip(names, _corrected(pairs), strict=True))
    answers = [answer(a, b, pair, level) for (a, b), pair in pairs.items()]
    return Comparison(answers=answers, pairs=pairs, flips={ab: _flips(joined, *ab) for ab in names}, **known)


def _differ_in_seed(one: Mapping, other: Mapping) -> bool:
    changed = config_lib.differences(one, other)
    return len(changed) == 1 and changed[0].startswith("seed: ")


def _over_seeds(joined: Joined, level: float) -> dict[str, SeedScore]:
    runs = [parts(side, joined.labels, joined.groups, joined.positive) for side in joined.sides.values()]
    return {
        name: over_seeds([run[name] for run in runs], METRICS[name].link, level, joined.groups.unit)
        for name in COMPARED
        if all(name in run for run in runs)
    }


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with Holm's probabilities, metric by metric."""
    raised = {name: holm([pair.metrics[name].p for pair in pairs]) for name in pairs[0].metrics}
    return [dataclasses.replace(pair, metrics={name: dataclasses.replace(difference, p=raised[name][i])
                                               for name, difference in pair.metrics.items()}) for i, pair in enumerate(pairs)]  # fmt: skip


def _flips(joined: Joined, a: str, b: str) -> list[Flip]:
    """The first `SHOWN` images that one of two runs has right."""
    one, two = joined.sides[a], joined.sides[b]
    rows = ((one.called == joined.labels) != (two.called == joined.labels)).nonzero()[0]
    found = [Flip(id=joined.ids[i], group=joined.groups.names[joined.groups.index[i]], label=joined.classes[joined.labels[i]],
                  a=joined.classes[one.called[i]], b=joined.classes[two.called[i]],
                  p_a=float(one.probabilities[i, joined.labels[i]]), p_b=float(two.probabilities[i, joined.labels[i]])) for i in rows]  # fmt: skip
    return sorted(found, key=lambda flip: (-abs(flip.p_b - flip.p_a), flip.id))[:SHOWN]


def shown_p(p: float | None) -> str:
    """Returns a probability with three decimals, or "-" for None."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def answer(a: str, b: str, pair: Pair, level: float) -> str:
    """Returns in one line whether a difference in accuracy can be told, and of which size."""
    accuracy = pair.metrics["accuracy"]
    score, unit = (
        accuracy.score,
        "image" if accuracy.test == "McNemar's test" else accuracy.test.removeprefix("sign flips of ")[:-1],
    )
    differ = pair.better + pair.worse
    told = accuracy.p is not None and accuracy.p < 1 - level and score.value != 0
    size, sign = (abs(score.value), 1 if score.value > 0 else -1) if told else (score.value, 1)
    ends = sorted(sign * end for end in (score.low, score.high)) if score.low is not None else None
    basis = f"{counted(score.groups, unit)}, {differ:,} of them differ"
    interval = f"{ends[0]:.4f} to {ends[1]:.4f}; {basis}" if ends else f"{basis}; no interval: {score.note}"
    by = f"p = {shown_p(accuracy.p)} by {accuracy.test}".replace("= <", "<")
    if told:
        return f"{b if sign > 0 else a} is better than {a if sign > 0 else b} by {size:.4f} in accuracy ({interval}), {by}"
    few = f"; with fewer than {ENOUGH_DIFFER} {unit}s that differ none could be" if differ < ENOUGH_DIFFER else ""
    return f"no difference in accuracy can be told between {a} and {b}: {b} has {size:+.4f} ({interval}), {by}{few}"


def _seeds_text(seeds: Sequence[int], scores: Mapping[str, SeedScore], level: float) -> str:
    score = scores["accuracy"]
    listed = ", ".join(map(str, seeds))
    told = f"{len(seeds)} trainings of one config with the seeds {listed}: accuracy {score.mean:.4f} on average"
    if score.note:
        return f"{told} ({min(score.values):.4f} to {max(score.values):.4f}); {score.note}"
    few = "; two seeds say little about others, add some" if len(seeds) == 2 else ""
    return (f"{told}, standard deviation {score.sd_seeds:.4f} between seeds; {level:.0%} interval of this mean {score.mean_low:.4f} to "
            f"{score.mean_high:.4f}, of one more training {score.future_low:.4f} to {score.future_high:.4f}{few}")  # fmt: skip


def better_of(metric: str, difference: float) -> int:
    """Returns 1 where the second run is better, -1 where the first is, 0 where they are equal."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    return sign * ((difference > 0) - (difference < 0))
