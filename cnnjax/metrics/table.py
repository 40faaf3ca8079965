"""The table of metrics. The screen, JSON files, reports and comparisons show what stands here: a new metric is a new row."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from cnnjax.metrics.readout import PLAIN, Readout
from cnnjax.metrics.scores import auc, by_rows, cross_entropy, probabilities

UNEVEN = 1.5  # times an equal share; from there on accuracy is compared with that of always saying the largest class


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Logits of every example of a split, each once, and the truth.

    Attributes:
        logits: float [n, classes], or [n, 1] of the second of two classes.
        labels: int [n].
        positive: the positive class of two; -1 for more classes.
        readout: which class is called; the loss is of the logits as they are, and so compares with that of training.
    """

    logits: np.ndarray
    labels: np.ndarray
    positive: int = -1
    readout: Readout = PLAIN

    @property
    def classes(self) -> int:
        """Number of classes."""
        return max(self.logits.shape[1], 2)

    @functools.cached_property
    def called(self) -> np.ndarray:
        """The class that is called of each example, int32 [n]."""
        return self.readout.called(self.logits)

    @property
    def is_positive(self) -> np.ndarray:
        """Marks the examples of the positive class, bool [n]."""
        return self.labels == self.positive


def shown(value: float | None) -> str:
    """Returns a number with four decimals, or "-" for None, NaN and infinities."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def shown_count(value: int | None) -> str:
    """Returns a whole number with commas between thousands, or "-" for None."""
    return "-" if value is None else f"{value:,}"


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row of `METRICS`.

    Attributes:
        title: as it stands above a column.
        of: the value of `Predictions`; None where it is not defined, such as a ratio without a denominator.
        needs: whether the metric exists for a number of classes.
        each_epoch: it is computed for validation after every epoch, and goes to `metrics.jsonl` and TensorBoard.
        tile: it is one of the large numbers at the top of a report.
        higher_is_better: the direction; None for a number without one.
        uneven: people see it only where classes are uneven, and then before the others.
        text: the value as text.
    """

    title: str
    of: Callable[[Predictions], float | int | None]
    needs: Callable[[int], bool] = lambda classes: True
    each_epoch: bool = False
    tile: bool = False
    higher_is_better: bool | None = True
    uneven: bool = False
    text: Callable[[float | int | None], str] = shown


def two_classes(classes: int) -> bool:
    """Returns whether the task has two classes."""
    return classes == 2


def _loss(p: Predictions) -> float:
    return float(by_rows(cross_entropy, np.empty(len(p.logits)), p.logits, p.labels).mean())


def _accuracy(p: Predictions) -> float:
    return float((p.called == p.labels).mean())


def _balanced_accuracy(p: Predictions) -> float:
    """The mean recall of the classes that are there: scikit-learn's `balanced_accuracy_score`."""
    count = np.bincount(p.labels, minlength=p.classes)
    right = np.bincount(p.labels[p.called == p.labels], minlength=p.classes)
    return float((right[count > 0] / count[count > 0]).mean())


def _majority(p: Predictions) -> float:
    return float(np.bincount(p.labels).max() / len(p.labels))


def _auc(p: Predictions) -> float | None:
    if not 0 < p.is_positive.sum() < len(p.labels):
        return None
    # By the order of logits: probabilities of very certain images round to the same 1.0.
    margin = p.logits[:, -1] - (p.logits[:, 0] if p.logits.shape[1] == 2 else 0.0)
    return auc(margin if p.positive else -margin, p.is_positive)


def _sensitivity(p: Predictions) -> float | None:
    return _mean((p.called == p.positive)[p.is_positive])


def _specificity(p: Predictions) -> float | None:
    return _mean((p.called != p.positive)[~p.is_positive])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _top5_accuracy(p: Predictions) -> float:
    return float(by_rows(_in_top5, np.empty(len(p.logits), bool), p.logits, p.labels).mean())


def _in_top5(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = probabilities(logits)
    return (p > p[np.arange(len(p)), labels][:, None]).sum(1) < 5


# name in files -> metric, in the order of columns.
METRICS: dict[str, Metric] = {
    "images": Metric("images", lambda p: len(p.labels), each_epoch=True, higher_is_better=None, text=shown_count),
    "loss": Metric("loss", _loss, each_epoch=True, higher_is_better=False),
    "balanced_accuracy": Metric("balanced accuracy", _balanced_accuracy, each_epoch=True, tile=True, uneven=True),
    "accuracy": Metric("accuracy", _accuracy, each_epoch=True, tile=True),
    "majority": Metric("largest class", _majority, higher_is_better=None, uneven=True),
    "auc": Metric("AUC", _auc, two_classes, each_epoch=True, tile=True),
    "sensitivity": Metric("sensitivity", _sensitivity, two_classes, each_epoch=True, tile=True),
    "specificity": Metric("specificity", _specificity, two_classes, each_epoch=True, tile=True),
    "top5_accuracy": Metric("top-5", _top5_accuracy, lambda classes: classes > 5),
}  # fmt: skip


def headline(logits: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, float | int | None]:
    """Returns the metrics of every epoch, by name: loss and accuracy, and for two classes those of the positive class.

    Args:
        logits: float [n, classes], or [n, 1] of the second of two classes.
        labels: int [n].
        positive: the positive class of two; sensitivity and specificity are at a probability of 0.5.
    """
    return _computed(Predictions(logits, labels, positive), each_epoch=True)


def _computed(predictions: Predictions, *, each_epoch: bool) -> dict[str, float | int | None]:
    return {name: metric.of(predictions) for name, metric in METRICS.items()
            if metric.each_epoch == each_epoch and metric.needs(predictions.classes)}  # fmt: skip


def detailed(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: int, readout: Readout = PLAIN
) -> dict:
    """Returns every metric, the confusion matrix (rows: true class), and precision, recall and F1 of each class.

    A ratio without a denominator is None.

    Args:
        logits: float [n, classes], or [n, 1] of the second of two classes.
        labels: int [n].
        classes: names.
        positive: the positive class of two; -1 for more classes.
        readout: which class is called.
    """
    predictions = Predictions(logits, labels, positive, readout)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, predictions.called), 1)
    right, true, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    numbers = {**_computed(predictions, each_epoch=True), "classes": list(classes)}
    if len(classes) == 2:
        numbers["positive"] = classes[positive]
    numbers |= _computed(predictions, each_epoch=False)
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


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def summarized(result: Mapping) -> dict[str, float | int | None]:
    """Returns the metrics of an evaluation, by name, without its matrix and its classes."""
    return {name: result[name] for name in METRICS if name in result}


def present(results: Iterable[Mapping], classes: int) -> dict[str, Metric]:
    """Returns the rows of `METRICS` that people see of `results`, in their order.

    Where in one of them the largest of the classes is `UNEVEN` times an equal share or more, that includes the rows for this.
    """
    results = list(results)
    uneven = any(result.get("majority", 0) * classes >= UNEVEN for result in results)
    return {name: metric for name, metric in METRICS.items()
            if any(name in result for result in results) and (uneven or not metric.uneven)}  # fmt: skip
