"""How well probabilities agree with what happens, in numbers with intervals and as bins of a diagram.

Sources: Kumar 2019 (squared error without the bias of bins), Cox 1958 (slope and intercept), Dimitriadis 2021 (decomposition of
Brier's score by isotonic regression).
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit, logsumexp

from cnnjax.metrics.calibration import Calibration, logistic
from cnnjax.metrics.jackknife import Groups, Score, effective, jackknife, proportion
from cnnjax.metrics.readout import Readout, positive_logit
from cnnjax.metrics.scores import by_rows, cross_entropy, probabilities

BINS = 15  # of the expected calibration error
DIAGRAM = 10  # bins of the diagram
HISTOGRAM = 20  # bins of equal width below it


def calibration_numbers(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: Groups,
    *,
    positive: int,
    calibration: Calibration | None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Returns numbers of calibration as JSON holds them.

    Args:
        logits: float [n, classes], or [n, 1] of the second of two classes, as the network gives them.
        labels: int [n].
        groups: of the images.
        positive: index of the positive class of two; -1 for more classes.
        calibration: None: probabilities are as the network gives them.
        level: of confidence.

    Returns:
        {"method", "asked", "temperature", "intercept", "reason", "val_images", "val_groups", "val_log_loss", "text", "raw",
        "calibrated"}. The text says what was done. The last two are name -> fields of `Score`: log_loss, brier, ece; of two classes also debiased_l2, slope, intercept,
        miscalibration, discrimination, uncertainty, of more the "class_ece", a list of numbers, in place of them. "calibrated" is
        None where nothing was fitted.
    """
    names = ("method", "asked", "temperature", "intercept", "reason", "val_images", "val_groups", "val_log_loss")
    told = {name: getattr(calibration, name) for name in names} if calibration else {"method": "none"}
    told["text"] = calibration.text(groups.unit) if calibration else ""
    known = {"raw": _numbers(logits, labels, groups, positive, level), "calibrated": None}
    if calibration and calibration.method != "none":
        z = readout_of(calibration).logits(logits)
        known["calibrated"] = _numbers(z, labels, groups, positive, level)
    return told | known


def readout_of(calibration: Calibration | None, threshold: float = 0.5, positive: int = -1) -> Readout:
    """Returns the readout of a calibration, if there is one, and of a threshold."""
    scale, intercept = (calibration.scale, calibration.intercept) if calibration else (1.0, 0.0)
    return Readout(scale=scale, intercept=intercept, threshold=threshold, positive=positive)


def reliability(logits: np.ndarray, labels: np.ndarray, groups: Groups, *, positive: int, calibration: Calibration | None,
                level: float = 0.95) -> dict[str, Any]:  # fmt: skip
    """Returns the diagram of reliability as JSON holds it; arguments as in `calibration_numbers`.

    Returns:
        {"raw", "calibrated", "histogram"}. The first two are lists of bins with equally many images: {"low", "high" (of p),
        "images", "mean_p", "observed" (fields of `Score`)}; "calibrated" is None where nothing was fitted. The histogram counts the
        probabilities that are used in `HISTOGRAM` bins of equal width from 0 to 1. Of more than two classes p is that of the most
        probable one, and observed is whether it is right.
    """
    used = calibration and calibration.method != "none"
    forms = {"raw": logits, "calibrated": readout_of(calibration).logits(logits) if used else None}
    bins = {
        name: _bins(*_outcomes(z, labels, positive), groups, level) if z is not None else None for name, z in forms.items()
    }
    p, _ = _outcomes(forms["calibrated"] if used else logits, labels, positive)
    return bins | {"histogram": np.histogram(p, HISTOGRAM, (0, 1))[0].tolist()}


def _outcomes(logits: np.ndarray, labels: np.ndarray, positive: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, float64 [n], and whether what they are of has happened, bool [n]."""
    if positive >= 0:
        return expit(positive_logit(logits, positive)), labels == positive
    top = by_rows(lambda part: probabilities(part).max(1), np.empty(len(labels)), logits)
    return top, np.asarray(logits).argmax(1) == labels


def equal_mass(p: np.ndarray, bins: int) -> np.ndarray:
    """Returns the bin of each probability, int [n]; bins hold about equally many, and equal probabilities share one."""
    edges = np.unique(np.sort(p)[np.arange(1, bins) * len(p) // bins])
    return np.searchsorted(edges, p, "right")


def _bins(p: np.ndarray, y: np.ndarray, groups: Groups, level: float) -> list[dict[str, Any]]:
    place, found = equal_mass(p, DIAGRAM), []
    for b in np.unique(place):
        among = place == b
        found.append({
            "low": float(p[among].min()), "high": float(p[among].max()), "images": int(among.sum()), "mean_p": float(p[among].mean()),
            "observed": proportion(y, among, groups, level).to_dict(),
        })  # fmt: skip
    return found


def ece(p: np.ndarray, y: np.ndarray, groups: Groups, level: float = 0.95, bins: int = BINS) -> Score:
    """Returns the expected calibration error with its interval; bins are those of all images.

    Args:
        p: float [n], probabilities.
        y: bool [n], whether it has happened.
        groups: of the images.
        level: of confidence.
        bins: of equal mass.
    """
    place, size = equal_mass(p, bins), groups.sums(np.ones(len(p)))
    own = np.bincount(groups.index * bins + place, p - y, groups.count * bins).reshape(groups.count, bins)
    total = own.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = np.abs(total - own).sum(1) / (len(p) - size)
    value = float(np.abs(total).sum() / len(p))
    return jackknife(value, without, effective(size), link="identity", level=level, unit=groups.unit, least=0.0, most=1.0)


def debiased_l2(p: np.ndarray, y: np.ndarray, bins: int = BINS) -> float:
    """Returns the mean squared distance of bins from the diagonal without what chance adds to it; may be negative."""
    place = equal_mass(p, bins)
    n, sum_p, sum_y = (np.bincount(place, weights) for weights in (np.ones(len(p)), p, y))
    n, sum_p, sum_y = n[n > 0], sum_p[n > 0], sum_y[n > 0]
    seen = sum_y / n
    return float((n / len(p) * ((sum_p / n - seen) ** 2 - seen * (1 - seen) / np.maximum(n - 1, 1))).sum())


def decomposed(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Returns the parts of Brier's score: miscalibration - discrimination + uncertainty."""
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)  # equal probabilities are refitted together
    refitted = isotonic_regression(np.bincount(place, y) / count, weights=count).x[place]
    score, best, base = (float(((q - y) ** 2).mean()) for q in (p, refitted, np.full(len(y), y.mean())))
    return {"miscalibration": score - best, "discrimination": base - best, "uncertainty": base}


def slope_and_intercept(z: np.ndarray, y: np.ndarray, groups: Groups, level: float = 0.95) -> tuple[Score, Score]:
    """Returns the slope of a logistic regression of y on z, and the intercept where the slope is 1, with intervals.

    Without a group the fit is one step of Newton's away from that of all groups, and is not computed anew.

    Args:
        z: float64 [n], logits of the positive class.
        y: bool [n].
        groups: of the images.
        level: of confidence.
    """
    counting = min(effective(groups.sums(y)), effective(groups.sums(~y)))
    how = {"link": "identity", "level": level, "unit": groups.unit}
    nothing = np.full(groups.count, np.nan)
    fitted = logistic(z, y)
    if fitted is None:
        none = Score(value=None, groups=groups.count, effective=counting, note="not defined for these images")
        slope = none
    else:
        p = expit(fitted[0] + fitted[1] * z)
        w, off = p * (1 - p), p - y
        a, b, c = (groups.sums(x).sum() - groups.sums(x) for x in (w, w * z, w * z * z))
        s, t = groups.sums(off), groups.sums(off * z)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = jackknife(fitted[1], fitted[1] + (a * t - b * s) / (a * c - b * b), counting, **how)
    if not 0 < y.sum() < len(y):
        return slope, jackknife(None, nothing, counting, **how)
    shift = float(brentq(lambda at: float((expit(z + at) - y).mean()), -1500, 1500, xtol=1e-12))
    p = expit(z + shift)
    w = groups.sums(p * (1 - p))
    with np.errstate(invalid="ignore", divide="ignore"):
        without = shift + groups.sums(p - y) / (w.sum() - w)
    return slope, jackknife(shift, without, counting, **how)


def _numbers(logits: np.ndarray, labels: np.ndarray, groups: Groups, positive: int, level: float) -> dict[str, Any]:
    """Numbers of one form of the logits, name -> fields of `Score`."""
    p, y = _outcomes(logits, labels, positive)
    losses = by_rows(cross_entropy, np.empty(len(labels)), logits, labels)
    squares = (p - y) ** 2 if positive >= 0 else by_rows(_squares, np.empty(len(labels)), logits, labels)
    found = {
        "log_loss": _mean(losses, groups, level),
        "brier": _mean(squares, groups, level),
        "ece": ece(p, y, groups, level),
    }
    if positive >= 0:
        slope, intercept = slope_and_intercept(positive_logit(logits, positive), y, groups, level)
        plain = {"debiased_l2": debiased_l2(p, y), **decomposed(p, y)}
        found |= {"slope": slope, "intercept": intercept}
        found |= {name: Score(value=value, groups=groups.count) for name, value in plain.items()}
        return {name: score.to_dict() for name, score in found.items()}
    return {name: score.to_dict() for name, score in found.items()} | {"class_ece": _of_classes(logits, labels)}


def _mean(values: np.ndarray, groups: Groups, level: float) -> Score:
    sums, size = groups.sums(values), groups.sums(np.ones(len(values)))
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (sums.sum() - sums) / (size.sum() - size)
    return jackknife(float(values.mean()), without, effective(size), link="log", level=level, unit=groups.unit)


def _squares(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = probabilities(logits)
    p[np.arange(len(p)), labels] -= 1
    return (p**2).sum(1)


def _of_classes(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The expected calibration error of each class against the others, in their order."""
    whole = by_rows(lambda part: logsumexp(np.asarray(part, np.float64), axis=1), np.empty(len(labels)), logits)
    found = []
    for c in range(logits.shape[1]):
        p, y = np.exp(logits[:, c].astype(np.float64) - whole), labels == c
        place = equal_mass(p, BINS)
        found.append(float(np.abs(np.bincount(place, p - y)).sum() / len(p)))
    return found
