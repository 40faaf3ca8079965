"""The table of metrics. The screen, JSON files, reports and comparisons show what stands here: a new metric is a new row."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from cnnjax.metrics.estimators import CalibrationError, Counts, OfCounts, Ratio
from cnnjax.metrics.orders import Auc, AveragePrecision, MacroAuc
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.scores import by_rows, cross_entropy, probabilities

AGAINST_OTHERS = 100  # classes up to which each is compared with all others
UNEVEN = 1.5  # times an equal share; from there on accuracy is compared with that of always saying the largest class


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
        of: the value of `Predictions`; None where it is not defined, such as a ratio without a denominator. An `Estimator` is quicker where
            an interval asks for the value without each group.
        needs: whether the metric exists for a number of classes.
        each_epoch: it is computed for validation after every epoch, and goes to `metrics.jsonl` and TensorBoard.
        tile: it is one of the large numbers at the top of a report.
        higher_is_better: the direction; None for a number without one.
        uneven: people see it only where classes are uneven, and then before the others.
        text: the value as text.
        link: the scale of the interval, a key of `LINKS`; "" for a number without an interval.
        counting: images of which each group's share counts: a key of `intervals.COUNTING`.
        bounded: an interval on the identity scale is clipped to [0, 1].
        detail: it is part of the evidence alone, not of every evaluation and of its columns.
        stated: it exists where the prevalence in use is stated.
    """

    title: str
    of: Callable[[Predictions], float | int | None]
    needs: Callable[[int], bool] = lambda classes: True
    each_epoch: bool = False
    tile: bool = False
    higher_is_better: bool | None = True
    uneven: bool = False
    text: Callable[[float | int | None], str] = shown
    link: str = "identity"
    counting: str = "fewer"
    bounded: bool = False
    detail: bool = False
    stated: bool = False


def two_classes(classes: int) -> bool:
    """Returns whether the task has two classes."""
    return classes == 2


def several_classes(classes: int) -> bool:
    """Returns whether the task has more than two classes, and not too many to compare each with all others."""
    return 2 < classes <= AGAINST_OTHERS


def _loss(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return by_rows(cross_entropy, np.empty(len(p.logits)), p.logits, p.labels), np.ones(len(p.labels))


def _log_loss(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return -np.log(np.maximum(p.own_probability, 5e-324)), np.ones(len(p.labels))


def _brier(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance from the truth: of two classes that of one probability, of more the sum over classes (Brier 1950)."""
    if p.classes == 2:
        return (1 - p.own_probability) ** 2, np.ones(len(p.labels))
    return p.squares + 1 - 2 * p.own_probability, np.ones(len(p.labels))


def _right(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return p.called == p.labels, np.ones(len(p.labels), bool)


def _balanced_accuracy(c: Counts) -> np.ndarray:
    """The mean recall of the classes that are there: scikit-learn's `balanced_accuracy_score`."""
    return (c.right[..., c.there] / c.true[..., c.there]).mean(-1)


def _macro_f1(c: Counts) -> np.ndarray:
    return (2 * c.right / (c.true + c.called)).mean(-1)


def _f1(c: Counts) -> np.ndarray:
    hit, missed, false, _ = c.table
    return 2 * hit / (2 * hit + missed + false)


def _kappa(c: Counts) -> np.ndarray:
    """Cohen 1960."""
    chance = (c.true * c.called).sum(-1) / c.all**2
    return (c.right.sum(-1) / c.all - chance) / (1 - chance)


def _mcc(c: Counts) -> np.ndarray:
    """The correlation of true and called classes (Gorodkin 2004), of two classes that of Matthews."""
    covered = c.right.sum(-1) * c.all - (c.true * c.called).sum(-1)
    return covered / np.sqrt((c.all**2 - (c.called**2).sum(-1)) * (c.all**2 - (c.true**2).sum(-1)))


def _stated_ppv(c: Counts) -> np.ndarray:
    hit, missed, false, other = c.table
    above = hit / (hit + missed) * c.prevalence
    return above / (above + false / (false + other) * (1 - c.prevalence))


def _stated_npv(c: Counts) -> np.ndarray:
    hit, missed, false, other = c.table
    above = other / (false + other) * (1 - c.prevalence)
    return above / (above + missed / (hit + missed) * c.prevalence)


def _majority(p: Predictions) -> float:
    return float(np.bincount(p.labels).max() / len(p.labels))


def _sensitivity(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return p.is_positive & (p.called == p.positive), p.is_positive


def _specificity(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return ~p.is_positive & (p.called != p.positive), ~p.is_positive


def _ppv(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return p.is_positive & (p.called == p.positive), p.called == p.positive


def _npv(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return ~p.is_positive & (p.called != p.positive), p.called != p.positive


def _top5(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return by_rows(_in_top5, np.empty(len(p.logits), bool), p.logits, p.labels), np.ones(len(p.labels), bool)


def _in_top5(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = probabilities(logits)
    return (p > p[np.arange(len(p)), labels][:, None]).sum(1) < 5


def _share(of: Callable[[Predictions], tuple[np.ndarray, np.ndarray]]) -> Ratio:
    return Ratio(of, proportion=True)


# name in files -> metric, in the order of columns.
METRICS: dict[str, Metric] = {
    "images": Metric("images", lambda p: len(p.labels), each_epoch=True, higher_is_better=None, text=shown_count, link=""),
    "loss": Metric("loss", Ratio(_loss), each_epoch=True, higher_is_better=False, link="log", counting="images"),
    "balanced_accuracy": Metric("balanced accuracy", OfCounts(_balanced_accuracy), each_epoch=True, tile=True, uneven=True, link="logit"),
    "accuracy": Metric("accuracy", _share(_right), each_epoch=True, tile=True, link="logit", counting="images"),
    "majority": Metric("largest class", _majority, higher_is_better=None, uneven=True, link=""),
    "auc": Metric("AUC", Auc(), two_classes, each_epoch=True, tile=True, link="logit"),
    "sensitivity": Metric("sensitivity", _share(_sensitivity), two_classes, each_epoch=True, tile=True, link="logit", counting="positives"),
    "specificity": Metric("specificity", _share(_specificity), two_classes, each_epoch=True, tile=True, link="logit", counting="negatives"),
    "macro_auc": Metric("AUC, mean over classes", MacroAuc(), several_classes, tile=True, link="logit"),
    "top5_accuracy": Metric("top-5", _share(_top5), lambda classes: classes > 5, link="logit", counting="images"),
    "average_precision": Metric("average precision", AveragePrecision(), two_classes, link="logit", detail=True),
    "f1": Metric("F1", OfCounts(_f1), two_classes, link="logit", detail=True),
    "macro_f1": Metric("F1, mean over classes", OfCounts(_macro_f1), several_classes, link="logit", detail=True),
    "mcc": Metric("Matthews correlation", OfCounts(_mcc), link="atanh", detail=True),
    "kappa": Metric("Cohen's kappa", OfCounts(_kappa), link="atanh", detail=True),
    "ppv": Metric("PPV in these images", _share(_ppv), two_classes, link="logit", detail=True),
    "npv": Metric("NPV in these images", _share(_npv), two_classes, link="logit", detail=True),
    "stated_ppv": Metric("PPV", OfCounts(_stated_ppv), two_classes, link="logit", detail=True, stated=True),
    "stated_npv": Metric("NPV", OfCounts(_stated_npv), two_classes, link="logit", detail=True, stated=True),
    "log_loss": Metric("log loss", Ratio(_log_loss), higher_is_better=False, link="log", counting="images", detail=True),
    "brier": Metric("Brier score", Ratio(_brier), higher_is_better=False, link="log", counting="images", detail=True),
    "ece": Metric("calibration error", CalibrationError(), higher_is_better=False, counting="images", bounded=True, detail=True),
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
            if metric.each_epoch == each_epoch and metric.needs(predictions.classes) and not metric.detail}  # fmt: skip


def detailed(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: int, decided: np.ndarray | None = None
) -> dict:
    """Returns every metric, the confusion matrix (rows: true class), and precision, recall and F1 of each class.

    A ratio without a denominator is None.

    Args:
        logits: float [n, classes], or [n, 1] of the second of two classes.
        labels: int [n].
        classes: names.
        positive: the positive class of two; -1 for more classes.
        decided: int [n], the class that is called; None: the most probable one.
    """
    predictions = Predictions(logits, labels, positive, decided=decided)
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
