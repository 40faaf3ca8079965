"""Numbers that describe predictions. On the host, in float64, from the logits of every example once."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NUMBERS = 2**15  # logits whose probabilities are held at once


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits [n, classes], or [n, 1] of the second of two classes -> float64 [n, classes]."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Natural-log cross-entropy of each example: logits as in `probabilities`, int labels [n] -> float64 [n]."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    top = z.max(1)
    return top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(z)), labels]


def slices(logits: np.ndarray) -> Iterator[slice]:
    """Rows in parts of about `NUMBERS` logits: in float64 all of them would take more memory than anything else."""
    step = max(NUMBERS // logits.shape[1], 1)
    return (slice(at, at + step) for at in range(0, max(len(logits), 1), step))


def by_rows(function: Callable[..., np.ndarray], out: np.ndarray, logits: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """`out`, filled with `function(logits, *more)`, whose rows depend on one row each, in parts."""
    for part in slices(logits):
        out[part] = function(*(rows[part] for rows in (logits, *more)))
    return out


def called(logits: np.ndarray) -> np.ndarray:
    """The most probable class of each example: int32 [n], of logits as in `probabilities`."""
    return by_rows(lambda part: probabilities(part).argmax(1), np.empty(len(logits), np.int32), logits)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, in whole numbers until the last division: of all pairs of a positive and a negative example,
    the share in which the positive one has the higher score; equal scores count half. NaN where a score is.

    Args:
        scores: float [n].
        positive: bool [n], some true and some false.
    """
    if np.isnan(scores).any():
        return math.nan
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    pairs = sum(int(np.searchsorted(low, high, side).sum()) for side in ("left", "right"))
    return pairs / (2 * len(high) * len(low))


def headline(logits: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, float | int | None]:
    """Loss and accuracy; for two classes also AUC, sensitivity and specificity of class `positive` at 0.5.

    A number that needs both classes is None where only one is present.
    """
    chosen = called(logits)
    numbers = {
        "images": len(labels),
        "loss": float(by_rows(cross_entropy, np.empty(len(logits)), logits, labels).mean()),
        "accuracy": float((chosen == labels).mean()),
    }
    if logits.shape[1] <= 2:
        is_positive = labels == positive
        said_positive = chosen == positive
        both = 0 < is_positive.sum() < len(labels)
        # By the logits' order: probabilities of very certain images round to the same 1.0.
        margin = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0.0)
        numbers["auc"] = auc(margin if positive else -margin, is_positive) if both else None
        numbers["sensitivity"] = _mean(said_positive[is_positive])
        numbers["specificity"] = _mean(~said_positive[~is_positive])
    return numbers


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def detailed(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: int) -> dict:
    """`headline`, the confusion matrix (rows: true class), precision, recall and F1 per class, and with more than five
    classes top-5 accuracy. A ratio without a denominator is None."""
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, called(logits)), 1)
    right, true, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    numbers = {**headline(logits, labels, positive), "classes": list(classes)}
    if len(classes) == 2:
        numbers["positive"] = classes[positive]
    if len(classes) > 5:
        numbers["top5_accuracy"] = float(by_rows(_in_top5, np.empty(len(logits), bool), logits, labels).mean())
    numbers["confusion"] = confusion.tolist()
    numbers["per_class"] = {
        name: {
            "images": int(true[i]),
            "precision": _ratio(right[i], guessed[i]),
            "recall": _ratio(right[i], true[i]),
            "f1": _ratio(2 * right[i], true[i] + guessed[i]),
        }
        for i, name in enumerate(classes)
    }
    return numbers


def _in_top5(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = probabilities(logits)
    return (p > p[np.arange(len(p)), labels][:, None]).sum(1) < 5


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def shown(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
