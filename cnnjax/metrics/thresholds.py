"""The probability from which the positive of two classes is called: chosen on validation by a rule, then fixed.

Candidates are the probabilities that validation images have. Sources: Youden 1950; decision theory for costs.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from cnnjax.metrics.jackknife import Groups, Score, effective, jackknife, proportion
from cnnjax.metrics.readout import EVEN, Readout
from cnnjax.metrics.scores import by_rows
from cnnjax.typed import typed

RULES = "a number between 0 and 1, youden, sensitivity:0.95, specificity:0.99, or cost:FN,FP as in cost:10,1"
DRAWS = 200  # bootstraps of whole groups for the range of a threshold


class Rule(NamedTuple):
    """A rule of `evidence.threshold`: its kind and its numbers."""

    kind: str
    numbers: tuple[float, ...]


def threshold_rule(text: str) -> Rule | None:
    """Parses a rule, one of `RULES`; None for anything else."""
    number = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
    found = re.fullmatch(rf"(youden)|(?:(sensitivity|specificity):)?({number})|cost:({number}),({number})", text.strip())
    if not found:
        return None
    if found[1]:
        return Rule("youden", ())
    if found[3]:
        value = float(found[3])
        return Rule(found[2] or "number", (value,)) if 0 < value < 1 else None
    costs = float(found[4]), float(found[5])
    return Rule("cost", costs) if all(0 < cost < math.inf for cost in costs) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """How a class is called: `decision.json`.

    Attributes:
        threshold: probability of the positive class from which it is called.
        rule: that chose it, as `evidence.threshold` has it.
        prevalence: with which a rule of costs has reckoned; 0: not stated.
        val: sensitivity and specificity of validation at the threshold; None where a class is missing.
        range: in which 95 % of the thresholds of redrawn validation groups are; None for a number, and where they cannot be drawn.
        reason: why the rule was not followed; "".
        step: the checkpoint.
        split_digest: of the split whose validation images these were.
    """

    threshold: float = EVEN
    rule: str = str(EVEN)
    prevalence: float = 0.0
    val: dict[str, float | None] = dataclasses.field(default_factory=dict)
    range: tuple[float, float] | None = None
    reason: str = ""
    step: int = 0
    split_digest: str = ""

    @property
    def follows(self) -> bool:
        """Whether the threshold was chosen for the images that it calls, and not given as a number."""
        return not self.reason and threshold_rule(self.rule).kind != "number"

    def text(self, unit: str, positive: str) -> str:
        """Returns one line about what was decided; "" for the default."""
        if self.reason:
            return f"evidence.threshold={self.rule} is not followed, {self.reason}: {self.threshold:g} is used"
        if self.threshold == EVEN and not self.follows:
            return ""
        line = f"{positive} is called from a probability of {self.threshold:.4g}, by the rule {self.rule}"
        if self.follows:
            line += " on validation" + (
                "" if self.range is None else f" ({self.range[0]:.2f} to {self.range[1]:.2f} with other {unit}s)"
            )
        return line

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of `decision.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`. Raises TypeError, KeyError or ValueError for what no choice gives."""
        made = typed(tree, cls, "decision")
        if threshold_rule(made.rule) is None:
            raise ValueError(f"rule {made.rule!r}")
        limits = (made.threshold, made.prevalence, *(made.range or ()), *(v for v in made.val.values() if v is not None))
        if not all(0 <= value <= 1 for value in limits) or (made.range is not None and len(made.range) != 2):
            raise ValueError(f"threshold {made.threshold}, prevalence {made.prevalence}, range {made.range}, val {made.val}")
        return made


def decide(
    logits: np.ndarray, labels: np.ndarray, groups: Groups, *, readout: Readout, rule: str, prevalence: float = 0.0
) -> Decision:
    """Chooses a threshold on validation images of two classes.

    Args:
        logits: float [n, 1] or [n, 2], as the network gives them.
        labels: int [n].
        groups: of the images.
        readout: with the calibration and the positive class.
        rule: one of `RULES`.
        prevalence: for a rule of costs.
    """
    parsed = threshold_rule(rule)
    p, y = _p(logits, readout), labels == readout.positive
    threshold, reason, spread = EVEN, "", None
    if parsed.kind == "number":
        threshold = parsed.numbers[0]
    elif not 0 < y.sum() < len(y):
        reason = "validation has images of one class only"
    elif (best := choose_threshold(p, y, parsed, prevalence)) is None:
        reason = "no probability of a validation image reaches that"
    else:
        threshold, spread = best, threshold_range(p, y, groups, parsed, prevalence)
    called = p >= threshold
    val = {name: float(hits[among].mean()) if among.any() else None
           for name, hits, among in (("sensitivity", called, y), ("specificity", ~called, ~y))}  # fmt: skip
    return Decision(threshold=threshold, rule=rule, prevalence=prevalence, val=val, range=spread, reason=reason)


def _p(logits: np.ndarray, readout: Readout) -> np.ndarray:
    return by_rows(lambda part: readout.probabilities(part)[:, readout.positive], np.empty(len(logits)), logits)


def choose_threshold(p: np.ndarray, y: np.ndarray, rule: Rule, prevalence: float = 0.0) -> float | None:
    """Returns the threshold of a rule among the values of `p`; None where none fits.

    Args:
        p: float [n], probabilities of the positive class.
        y: bool [n], whether it is that; both kinds are there.
        rule: not a number.
        prevalence: for a rule of costs.
    """
    order = np.argsort(-p, kind="stable")
    return _choose(_Curve(p[order], y[order]), np.ones(len(p)), rule, prevalence)


class _Curve:
    """Images from the highest probability to the lowest, and where each distinct one ends."""

    def __init__(self, p: np.ndarray, y: np.ndarray):
        self.ends = np.flatnonzero(np.append(p[1:] != p[:-1], True))
        self.candidates, self.y = p[self.ends], y

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates that images with a weight have, and sensitivity and specificity at each."""
        hits, alarms = np.cumsum(weights * self.y), np.cumsum(weights * ~self.y)
        counted = (hits + alarms)[self.ends]
        there = np.diff(counted, prepend=0) > 0
        hits, alarms = hits / hits[-1], alarms / alarms[-1]
        return self.candidates[there], hits[self.ends][there], 1 - alarms[self.ends][there]


def _choose(curve: _Curve, weights: np.ndarray, rule: Rule, prevalence: float) -> float | None:
    candidates, sensitivity, specificity = curve.rates(weights)
    if rule.kind in ("sensitivity", "specificity"):
        reached = (sensitivity if rule.kind == "sensitivity" else specificity) >= rule.numbers[0] - 1e-12
        fitting = candidates[reached]
        return float(fitting.max() if rule.kind == "sensitivity" else fitting.min()) if len(fitting) else None
    value = sensitivity + specificity
    if rule.kind == "cost":
        missed, alarm = rule.numbers
        value = -(prevalence * missed * (1 - sensitivity) + (1 - prevalence) * alarm * (1 - specificity))
    best = candidates[value >= value.max() - 1e-12]
    if (candidates >= EVEN).any() and candidates[candidates >= EVEN].min() in best:
        return EVEN  # calls the same images, and those between that validation has none of as they are called elsewhere
    return float(best[np.abs(best - EVEN).argmin()])


def threshold_range(
    p: np.ndarray, y: np.ndarray, groups: Groups, rule: Rule, prevalence: float = 0.0
) -> tuple[float, float] | None:
    """Returns the central 95 % of the thresholds that a rule chooses on `DRAWS` bootstraps of whole groups; arguments as above.

    None where most draws have images of one class only.
    """
    order, random = np.argsort(-p, kind="stable"), np.random.default_rng(0)
    curve, index, found = _Curve(p[order], y[order]), groups.index[order], []
    for _ in range(DRAWS):
        weights = np.bincount(random.integers(0, groups.count, groups.count), minlength=groups.count)[index]
        if 0 < (weights * curve.y).sum() < weights.sum():
            found.append(_choose(curve, weights, rule, prevalence))
    found = [threshold for threshold in found if threshold is not None]
    if 2 * len(found) < DRAWS:
        return None
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def threshold_numbers(logits: np.ndarray, labels: np.ndarray, groups: Groups, *, readout: Readout, decision: Decision | None,
                      prevalence: float = 0.0, level: float = 0.95) -> dict[str, Any]:  # fmt: skip
    """Returns numbers of two classes at the threshold, as JSON holds them.

    Args:
        logits: float [n, 1] or [n, 2], as the network gives them.
        labels: int [n].
        groups: of the images.
        readout: with calibration, threshold and positive class.
        decision: None: 0.5.
        prevalence: share of the positive class for PPV and NPV; 0: not stated.
        level: of confidence.

    Returns:
        {"threshold", "rule", "range", "val", "reason", "prevalence", "share" (of positives in these images), "asked" (None, or
        {"name", "target", "missed"}: a sensitivity or specificity, and whether its interval excludes what was asked for; None where it is lower and there is no interval), "rows"}.
        A row is {"threshold", "sensitivity", "specificity", "ppv", "npv", "ppv_at", "npv_at"}, the numbers as fields of `Score`;
        those with _at are at the prevalence, None where it is not stated. The first row is at the threshold, a second one at 0.5.
    """
    decision = decision or Decision()
    p, y = _p(logits, readout), labels == readout.positive
    used = readout.called(logits) == readout.positive
    rows = [{"threshold": readout.threshold, **_rates(used, y, groups, prevalence, level)}]
    if readout.threshold != EVEN:
        rows.append({"threshold": EVEN, **_rates(p >= EVEN, y, groups, prevalence, level)})
    asked, rule = None, threshold_rule(decision.rule)
    if rule.kind in ("sensitivity", "specificity") and not decision.reason:
        score, target = rows[0][rule.kind], rule.numbers[0]
        missed = score["value"] is not None and not (
            (score["low"] is None or score["low"] <= target) and (score["high"] is None or target <= score["high"])
        )
        if score["low"] is score["high"] is None and score["value"] is not None and score["value"] < target:
            missed = None  # too few groups to say
        asked = {"name": rule.kind, "target": target, "missed": missed}
    return {
        "threshold": readout.threshold, "rule": decision.rule, "range": decision.range and list(decision.range), "val": decision.val,
        "reason": decision.reason, "prevalence": prevalence, "share": float(y.mean()), "asked": asked, "rows": rows,
    }  # fmt: skip


def asked_text(numbers: Mapping[str, Any], split: str) -> str:
    """Returns a line where the images do not give what the rule of `threshold_numbers` asked for; "" where they do."""
    asked = numbers["asked"]
    if not asked or asked["missed"] is False:
        return ""
    score = numbers["rows"][0][asked["name"]]
    if asked["missed"] is None:
        return f"asked for {asked['name']} {asked['target']:g}, {split} gives {score['value']:.2f}; it has too few groups to say whether by chance"
    ends = " to ".join("" if end is None else f"{end:.2f}" for end in (score["low"], score["high"]))
    return f"asked for {asked['name']} {asked['target']:g}, {split} gives {score['value']:.2f} ({ends.strip()})"


def _rates(called: np.ndarray, y: np.ndarray, groups: Groups, prevalence: float, level: float) -> dict[str, Any]:
    found = {
        "sensitivity": proportion(called, y, groups, level), "specificity": proportion(~called, ~y, groups, level),
        "ppv": proportion(y, called, groups, level), "npv": proportion(~y, ~called, groups, level),
    }  # fmt: skip
    found = {name: score.to_dict() for name, score in found.items()} | {"ppv_at": None, "npv_at": None}
    if prevalence:
        at = _at_prevalence(called, y, groups, prevalence, level)
        found |= {name: score.to_dict() for name, score in at.items()}
    return found


def predictive_values(sensitivity, specificity, prevalence: float) -> tuple:
    """Returns PPV and NPV at a prevalence, of numbers or arrays; NaN where nothing is called so."""
    hit, alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, miss = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(hit, hit + alarm), np.divide(clear, clear + miss)


def _at_prevalence(called: np.ndarray, y: np.ndarray, groups: Groups, prevalence: float, level: float) -> dict[str, Score]:
    tp, p, tn, q = (groups.sums(x) for x in (called & y, y, ~called & ~y, ~y))
    counting = min(effective(p), effective(q))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = predictive_values(tp.sum() / p.sum(), tn.sum() / q.sum(), prevalence)
        without = predictive_values((tp.sum() - tp) / (p.sum() - p), (tn.sum() - tn) / (q.sum() - q), prevalence)
    return {name: jackknife(float(value), rest, counting, link="logit", level=level, unit=groups.unit)
            for name, value, rest in zip(("ppv_at", "npv_at"), values, without, strict=True)}  # fmt: skip
