"""Calibration of probabilities on validation: one temperature for all logits, or Platt's line of two classes.

Sources: Guo 2017 (temperature), Platt 1999. The loss is convex in 1 / temperature, so its slope has one zero.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit

from cnnjax.metrics.jackknife import Groups, effective, jackknife
from cnnjax.metrics.readout import Readout, positive_logit
from cnnjax.metrics.scores import by_rows, cross_entropy, probabilities
from cnnjax.progress import counted
from cnnjax.typed import typed

METHODS = ("temperature", "platt", "none")
COLDEST, HOTTEST = 0.05, 20.0
FEWEST_GROUPS, FEWEST_IMAGES = 10, 200
FOLDS = 10  # of the comparison of Platt's line with a temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """How probabilities are made of logits: `calibration.json`.

    Attributes:
        asked: the method that was asked for, one of `METHODS`.
        method: the one that is used.
        scale: factor of the logits, 1 / temperature.
        intercept: added to the scaled logit of the second of two classes; 0 but for platt.
        share: share of the positive class that the probabilities suppose; None for more than two classes.
        val_images, val_groups: on which it was fitted.
        val_log_loss: mean cross-entropy of validation before and after; None where it is not finite.
        reason: why the method is not the one that was asked for; "".
        step: the checkpoint.
        split_digest: of the split whose validation images these were.
    """

    asked: str
    method: str
    scale: float = 1.0
    intercept: float = 0.0
    share: float | None = None
    val_images: int
    val_groups: int
    val_log_loss: tuple[float, float] | None = None
    reason: str = ""
    step: int = 0
    split_digest: str = ""

    @property
    def temperature(self) -> float:
        """1 / scale."""
        return 1 / self.scale

    def text(self, unit: str) -> str:
        """Returns one line about what was done; "" where nothing was asked for."""
        if self.asked == "none":
            return ""
        line = f"probabilities are as the network gives them: {self.reason}"
        if self.method != "none":
            before, after = self.val_log_loss
            how = f"temperature {self.temperature:.2f}"
            if self.method == "platt":
                how = f"Platt's line, slope {self.scale:.2f} and intercept {self.intercept:.2f}"
            line = (
                f"calibrated on {counted(self.val_groups, unit)} of validation: {how} (log loss {before:.3f} -> {after:.3f})"
            )
            line += f"; {self.reason}" if self.reason else ""
        return line

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of `calibration.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`. Raises TypeError, KeyError or ValueError for what no fit gives."""
        made = typed(tree, cls, "calibration")
        if made.method not in METHODS or made.asked not in METHODS:
            raise ValueError(f"method {made.method!r}, asked {made.asked!r}")
        if not (1e-4 <= made.scale <= 1e4 and abs(made.intercept) <= 1e4):
            raise ValueError(f"scale {made.scale}, intercept {made.intercept}")
        if made.share is not None and not 0 < made.share < 1:
            raise ValueError(f"share {made.share}")
        if made.val_log_loss is not None and not (
            len(made.val_log_loss) == 2 and all(map(math.isfinite, made.val_log_loss))
        ):
            raise ValueError("val_log_loss")
        if made.method != "none" and made.val_log_loss is None:
            raise ValueError("no val_log_loss")
        return made


def fit_calibration(logits: np.ndarray, labels: np.ndarray, groups: Groups, method: str, share: float | None) -> Calibration:
    """Fits a method of calibration to validation images.

    Args:
        logits: float [n, classes], or [n, 1] of the second of two classes, as the network gives them.
        labels: int [n].
        groups: of the images.
        method: of `METHODS`; platt of two classes only.
        share: see `Calibration`.

    Returns:
        Of method "none", with the reason, where the images are too few, a bound is reached, or the loss would not be lower.
        Of method "temperature" where Platt's line is not better by a standard error, in cross-validation over groups.
    """
    facts = {"asked": method, "val_images": len(labels), "val_groups": groups.count, "share": share}
    none = Calibration(method="none", **facts)
    if method == "none":
        return none
    if groups.count < FEWEST_GROUPS or len(labels) < FEWEST_IMAGES:
        has = counted(len(labels), "image") + (f" of {counted(groups.count, groups.unit)}" if groups.named else "")
        needed = f"{FEWEST_IMAGES} images" + (f" of {FEWEST_GROUPS} {groups.unit}s" if groups.named else "")
        return dataclasses.replace(none, reason=f"validation has {has}, a calibration needs {needed}")
    before = _loss(logits, labels)
    if not math.isfinite(before):
        return dataclasses.replace(none, reason="a logit of validation is not finite")
    scale = _scale(logits, labels)
    line, why = _line(logits, labels, groups) if method == "platt" else (None, "")
    if line is not None:
        intercept, scale = line
        after = _loss(Readout(scale=scale, intercept=intercept).logits(logits), labels)
        return Calibration(method="platt", scale=scale, intercept=intercept, val_log_loss=(before, after), **facts)
    if not math.isfinite(scale):
        return dataclasses.replace(
            none, reason=f"a temperature that fits validation would be below {COLDEST:g}: hardly a mistake there"
        )
    if not scale:
        return dataclasses.replace(
            none, reason=f"a temperature that fits validation would be above {HOTTEST:g}: its order is chance"
        )
    after = _loss(scale * np.asarray(logits, np.float64), labels)
    if not after < before:
        return dataclasses.replace(none, reason="no temperature lowers the log loss of validation")
    return Calibration(method="temperature", scale=scale, val_log_loss=(before, after), reason=why, **facts)


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(by_rows(cross_entropy, np.empty(len(labels)), logits, labels).mean())


def _scale(logits: np.ndarray, labels: np.ndarray) -> float:
    """The 1 / temperature with the lowest mean cross-entropy; inf or 0 where a bound is reached."""

    def slope(scale: float) -> float:
        def rows(part: np.ndarray, truth: np.ndarray) -> np.ndarray:
            z = np.asarray(part, np.float64)
            z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
            return (probabilities(scale * z) * z).sum(1) - z[np.arange(len(z)), truth]

        return float(by_rows(rows, np.empty(len(labels)), logits, labels).mean())

    if slope(1 / COLDEST) <= 0:
        return math.inf
    if slope(1 / HOTTEST) >= 0:
        return 0.0
    return float(brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12, rtol=1e-12))


def logistic(z: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Fits P(y) = expit(intercept + slope z) by maximum likelihood; None where the classes are apart, one is missing, or all z are the same.

    Args:
        z: float64 [n].
        y: bool [n].
    """
    if not 0 < y.sum() < len(y) or z.min() == z.max():
        return None

    def value(b):
        m = b[0] + b[1] * z
        return float((np.logaddexp(0, m) - y * m).mean())

    def gradient(b):
        off = expit(b[0] + b[1] * z) - y
        return np.array([off.mean(), (off * z).mean()])

    def curvature(b):
        p = expit(b[0] + b[1] * z)
        w = p * (1 - p)
        return np.array([[w.mean(), (w * z).mean()], [(w * z).mean(), (w * z * z).mean()]])

    found = minimize(value, [0.0, 1.0], jac=gradient, hess=curvature, method="trust-exact",
                     options={"gtol": 1e-10, "maxiter": 100})  # fmt: skip
    intercept, slope = map(float, found.x)
    # Classes that are apart have no best line: the slope grows until the gradient is as small as was asked for.
    apart = ((intercept + slope * z > 0) == y).all()
    return None if apart or not np.abs(gradient(found.x)).max() < 1e-6 else (intercept, slope)


def _line(logits: np.ndarray, labels: np.ndarray, groups: Groups) -> tuple[tuple[float, float] | None, str]:
    """Platt's (intercept, slope) where it is better than a temperature by a standard error; else None and why not.

    Both are fitted to nine tenths of the groups and compared on the tenth, ten times.
    """
    z, y = positive_logit(logits, 1), labels == 1
    line = logistic(z, y)
    if line is None or line[1] <= 0:
        return None, "Platt's line cannot be fitted to validation"
    fold = (np.random.default_rng(0).permutation(groups.count) % FOLDS)[groups.index]
    gain = np.zeros(len(y))
    for k in range(FOLDS):
        rest, out = fold != k, fold == k
        fitted, scale = logistic(z[rest], y[rest]), _scale(logits[rest], labels[rest])
        if fitted is None or not 0 < scale < math.inf:
            return None, "Platt's line cannot be compared with a temperature on so few images"
        losses = [np.logaddexp(0, m) - y[out] * m for m in (scale * z[out], fitted[0] + fitted[1] * z[out])]
        gain[out] = losses[0] - losses[1]
    sums, size = groups.sums(gain), groups.sums(np.ones(len(y)))
    without = (sums.sum() - sums) / (size.sum() - size)
    score = jackknife(float(gain.mean()), without, effective(size), link="identity")
    if score.se is None or score.value <= score.se:
        error = "" if score.se is None else f" (gain {score.value:.4f}, standard error {score.se:.4f})"
        return None, f"in cross-validation Platt's line is no better by a standard error{error}"
    return line, ""
