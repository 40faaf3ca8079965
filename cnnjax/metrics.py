"""Numbers that describe predictions. On the host, in float64, from the logits of every example once."""

import math
from collections.abc import Sequence

import numpy as np


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


def headline(logits: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, float | int | None]:
    """Loss and accuracy; for two classes also AUC, sensitivity and specificity of class `positive` at 0.5.

    A number that needs both classes is None where only one is present.
    """
    p = probabilities(logits)
    numbers = {
        "images": len(labels),
        "loss": float(cross_entropy(logits, labels).mean()),
        "accuracy": float((p.argmax(1) == labels).mean()),
    }
    if p.shape[1] == 2:
        from sklearn.metrics import roc_auc_score

        is_positive = labels == positive
        called = p.argmax(1) == positive
        both = 0 < is_positive.sum() < len(labels)
        # By the logits' order: probabilities of very certain images round to the same 1.0.
        margin = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0.0)
        numbers["auc"] = float(roc_auc_score(is_positive, margin if positive else -margin)) if both else None
        numbers["sensitivity"] = _mean(called[is_positive])
        numbers["specificity"] = _mean(~called[~is_positive])
    return numbers


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def detailed(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: int) -> dict:
    """`headline`, the confusion matrix (rows: true class), precision, recall and F1 per class, and with more than five
    classes top-5 accuracy. A ratio without a denominator is None."""
    p = probabilities(logits)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, p.argmax(1)), 1)
    right, true, called = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    numbers = {**headline(logits, labels, positive), "classes": list(classes)}
    if len(classes) == 2:
        numbers["positive"] = classes[positive]
    if len(classes) > 5:
        own = p[np.arange(len(labels)), labels]
        numbers["top5_accuracy"] = float(((p > own[:, None]).sum(1) < 5).mean())
    numbers["confusion"] = confusion.tolist()
    numbers["per_class"] = {
        name: {
            "images": int(true[i]),
            "precision": _ratio(right[i], called[i]),
            "recall": _ratio(right[i], true[i]),
            "f1": _ratio(2 * right[i], true[i] + called[i]),
        }
        for i, name in enumerate(classes)
    }
    return numbers


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def shown(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
