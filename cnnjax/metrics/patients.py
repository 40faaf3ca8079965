"""Numbers of each group (patient), how unevenly errors fall on groups, and scores and burdens of whole groups."""

import dataclasses

import numpy as np

from cnnjax.metrics.intervals import score
from cnnjax.metrics.jackknife import Groups, Score, wilson
from cnnjax.metrics.orders import Auc, area
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.table import Metric, two_classes

HIGHEST = 5  # logits whose mean is the score of a group
EACH = 10  # groups of either kind from which the score of groups is judged


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group, a row of `eval/<name>-groups.csv`.

    Attributes:
        group: its name; "" for an image without one.
        images: number of images.
        positives: images of the positive class; None of more than two classes.
        called_positive: images that are called positive; None likewise.
        errors: images that are called wrong.
        accuracy: share that is called right.
        low, high: Wilson's interval of that within the group.
        mean_p: mean probability of the positive class; None likewise.
        top5: mean of the five highest logits of the positive class, the score of the group; None likewise.
    """

    group: str
    images: int
    positives: int | None
    called_positive: int | None
    errors: int
    accuracy: float
    low: float
    high: float
    mean_p: float | None
    top5: float | None


def group_rows(p: Predictions, groups: Groups, level: float = 0.95) -> list[GroupRow]:
    """Returns a row for each group, those with most errors first, then by name.

    Args:
        p: predictions of a split.
        groups: of the images.
        level: of confidence of the intervals within the groups.
    """
    images = groups.sums(np.ones(len(p.labels)))
    errors = groups.sums(p.called != p.labels)
    two = p.classes == 2
    positives, called = (groups.sums(p.is_positive), groups.sums(p.called == p.positive)) if two else (None, None)
    mean = groups.sums(p.by_rows(lambda rows, labels: rows[:, p.positive])) / images if two else None
    top = group_scores(p, groups) if two else None
    of = lambda values, i, kind: None if values is None else kind(values[i])  # noqa: E731
    rows = []
    for i in np.lexsort((np.asarray(groups.names, object).astype(str), -errors)):
        n, wrong = int(images[i]), int(errors[i])
        low, high = wilson(n - wrong, n, level)
        rows.append(GroupRow(
            group=groups.names[i], images=n, positives=of(positives, i, int), called_positive=of(called, i, int), errors=wrong,
            accuracy=(n - wrong) / n, low=low, high=high, mean_p=of(mean, i, float), top5=of(top, i, float)))  # fmt: skip
    return rows


def group_scores(p: Predictions, groups: Groups) -> np.ndarray:
    """Returns the mean of the `HIGHEST` highest logits of the positive class in each group, float64 [groups], of two classes."""
    order = np.lexsort((-p.margin, groups.index))
    index = groups.index[order]
    rank = np.arange(len(index)) - np.searchsorted(index, index)
    top = order[rank < HIGHEST]
    count = np.bincount(groups.index[top], minlength=groups.count)
    return np.bincount(groups.index[top], np.asarray(p.margin, np.float64)[top], minlength=groups.count) / count


def scores_of_groups(p: Predictions, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Returns the score of each group, float64 [groups], and whether it holds a positive image, bool [groups], of two classes."""
    return group_scores(p, groups), groups.sums(p.is_positive) > 0


def group_auc(p: Predictions, groups: Groups, level: float = 0.95) -> Score:
    """Returns the area under the ROC curve of whole groups: whether one holds a positive image, by the mean of its five highest logits."""
    scores, positive = scores_of_groups(p, groups)
    own = Predictions(scores[:, None], positive.astype(int), 1)
    fewest = min(int(positive.sum()), int((~positive).sum()))
    if fewest < EACH:
        kinds = f"{int(positive.sum())} {groups.unit}s with a positive image and {int((~positive).sum())} without: too few for an interval"
        return Score(value=area(scores, positive), groups=groups.count, effective=float(groups.count), note=kinds)
    alone = Groups(np.arange(groups.count), groups.names, named=True, unit=groups.unit)
    return score(Metric("", Auc(), two_classes, link="logit"), own, alone, level=level)


def rogan_gladen(called: np.ndarray | float, sensitivity: float, specificity: float) -> np.ndarray | float | None:
    """Returns the true share of positives from the share that is called positive, in [0, 1] (Rogan and Gladen 1978).

    None where the network tells positives and negatives no better apart than chance.
    """
    gain = sensitivity + specificity - 1
    return np.clip((called + specificity - 1) / gain, 0.0, 1.0) if gain > 0 else None


def spread(p: Predictions, groups: Groups) -> dict[str, float | int | None]:
    """Returns how the numbers differ between groups, as JSON; {} for images without groups.

    Holds the median and the 10th percentile of the accuracy of a group, the share of all errors in the five and the ten worst groups
    (None without an error), the number of groups with images of a single class. Of two classes also sensitivity and specificity as
    means over groups, and the burden: how far the share that is called positive, as it is and corrected, is
    from the true share, as the mean over groups.

    Args:
        p: predictions of a split.
        groups: of the images.
    """
    if not groups.named:
        return {}
    images, errors = groups.sums(np.ones(len(p.labels))), groups.sums(p.called != p.labels)
    accuracy, worst = 1 - errors / images, np.sort(errors)[::-1]
    share = lambda n: float(worst[:n].sum() / errors.sum()) if errors.any() else None  # noqa: E731
    kinds = np.unique(groups.index * p.classes + p.labels) // p.classes
    found = {
        "median_accuracy": float(np.median(accuracy)), "tenth_accuracy": float(np.quantile(accuracy, 0.1)),
        "errors_in_worst_5": share(5), "errors_in_worst_10": share(10),
        "single_class_groups": int((np.bincount(kinds, minlength=groups.count) == 1).sum()),
    }  # fmt: skip
    return {**found, **(_of_two(p, groups, images) if p.classes == 2 else {})}


def _of_two(p: Predictions, groups: Groups, images: np.ndarray) -> dict[str, float | None]:
    positive, said = groups.sums(p.is_positive), groups.sums(p.called == p.positive)
    hit = groups.sums(p.is_positive & (p.called == p.positive))
    negative = images - positive
    rejected = negative - (said - hit)
    mean = lambda above, below: float((above[below > 0] / below[below > 0]).mean()) if below.any() else None  # noqa: E731
    found = {"mean_sensitivity": mean(hit, positive), "mean_specificity": mean(rejected, negative)}
    if positive.any() and negative.any():
        true, called = positive / images, said / images
        corrected = rogan_gladen(called, hit.sum() / positive.sum(), rejected.sum() / negative.sum())
        found["burden_error"] = float(np.abs(called - true).mean())
        found["corrected_burden_error"] = None if corrected is None else float(np.abs(corrected - true).mean())
    return found
