"""Labels that the network contradicts: confident learning (Northcutt et al. 2021, JAIR 70) on predictions that are out of fold.

Suspects are images to look at. Nothing is relabelled.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cnnjax.audit.findings import FINE, NOTEWORTHY, Finding
from cnnjax.errors import CheckpointError, DataError
from cnnjax.progress import counted
from cnnjax.runs import RunDirectory

SUSPECTS = ("id", "group", "label", "suggested", "p_label", "p_suggested", "rank")  # columns of `labels.csv`


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a run for images that it was not trained on.

    Attributes:
        ids, groups: one text per image.
        labels: int64 [n].
        probabilities: float64 [n, classes].
        classes: names in the order of the probabilities.
        source: names of the files that they were read from, for the screen.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Confidence:
    """Counts of confident learning.

    Attributes:
        thresholds: float64 [classes], the mean probability of the images of each class; infinite for a class without images.
        joint: int64 [classes, classes], images by label and by the class that is confident.
        noise: estimated fraction of labels that are wrong.
        suspects: int64 [n], positions of the images to look at, the most doubtful first.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    noise: float
    suspects: np.ndarray


def confident(labels: np.ndarray, probabilities: np.ndarray) -> Confidence:
    """Finds the labels that predictions contradict with confidence.

    Args:
        labels: int64 [n].
        probabilities: float64 [n, classes], each row out of fold.
    """
    classes, rows = probabilities.shape[1], np.arange(len(labels))
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[rows, labels]
    thresholds = np.full(classes, np.inf)
    np.divide(np.bincount(labels, own, minlength=classes), counts, out=thresholds, where=counts > 0)
    above = np.where(probabilities >= thresholds - 1e-6, probabilities, -1)
    best, sure = above.argmax(1), above.max(1) >= 0
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[sure], best[sure]), 1)
    sums = joint.sum(1, keepdims=True)
    scaled = np.divide(joint * counts[:, None], sums, out=np.diag(counts).astype(float), where=sums > 0)
    suspect = np.zeros(len(labels), bool)
    called = probabilities.argmax(1)
    for i, j in zip(*np.nonzero(np.rint(scaled)), strict=True):
        if i != j:
            inside = np.flatnonzero(labels == i)
            margin = probabilities[inside, j] - probabilities[inside, i]
            suspect[inside[np.argsort(-margin, kind="stable")[: int(np.rint(scaled[i, j]))]]] = True
    suspect &= called != labels
    other = probabilities.copy()
    other[rows, labels] = -np.inf
    found = np.flatnonzero(suspect)
    order = np.argsort((own - other.max(1))[found], kind="stable")
    noise = 1 - float(np.trace(scaled)) / max(len(labels), 1)
    return Confidence(thresholds, joint, noise, found[order])


def read_predictions(run: RunDirectory, names: Sequence[str] = ()) -> Predictions:
    """Reads predictions of images that the network was not trained on: of a cross-validation, else of validation and test.

    Args:
        run: whose predictions.
        names: of the files in `eval/` to read; (): those that there are.

    Raises:
        DataError: the run has none.
        CheckpointError: a file is damaged.
    """
    usual = ("oof",) if run.predictions("oof").exists() else ("val", "test")
    names = names or [name for name in usual if run.predictions(name).exists()]
    if not names:
        raise DataError(f"{run} has no predictions of images that it was not trained on; train it first, or name a run that is trained with "
                        "--workdir=DIR")  # fmt: skip
    ids: dict[str, int] = {}
    classes, kept, sums = (), [], []
    for name in names:
        rows = run.read_rows(run.predictions(name))
        header = next(rows, [])
        place = {column: i for i, column in enumerate(header)}
        columns = [i for i, column in enumerate(header) if column.startswith("p_")]
        own = tuple(header[i].removeprefix("p_") for i in columns)
        if not columns or not {"id", "group", "label"} <= place.keys() or (classes and own != classes):
            raise CheckpointError(f"{run.predictions(name)} is damaged (no columns id, group, label and p_<class>); evaluate the run again "
                                  f"with --mode=eval --workdir={run}")  # fmt: skip
        classes = own
        _collect(rows, place, columns, classes, ids, kept, sums, run.predictions(name))
    counts = np.array([len(own) for own in sums])
    mean = np.array([np.sum(own, axis=0) for own in sums]) / counts[:, None]  # of several repeats
    source = " and ".join(f"eval/{name}.csv" for name in names)
    labels = np.array([classes.index(label) for label, _ in kept])
    return Predictions(list(ids), [group for _, group in kept], labels, mean, classes, source)


def _collect(rows: Iterable[list[str]], place: dict[str, int], columns: Sequence[int], classes: Sequence[str], ids: dict[str, int],
             kept: list, sums: list, path) -> None:  # fmt: skip
    """Adds the rows of one file: to `ids` where an image stands, to `kept` its label and group, to `sums` its probabilities."""
    for row in rows:
        try:
            at = ids.setdefault(row[place["id"]], len(ids))
            p = [float(row[i]) for i in columns]
            classes.index(row[place["label"]])
        except (IndexError, ValueError):
            raise CheckpointError(
                f"{path} has the row {','.join(row)[:200]!r}, which is damaged; evaluate the run again"
            ) from None
        if at == len(kept):
            kept.append((row[place["label"]], row[place["group"]]))
            sums.append([])
        sums[at].append(p)


def finding(told: Predictions, found: Confidence) -> Finding:
    """Returns the finding on labels."""
    count = len(found.suspects)
    if not count:
        return Finding(kind="suspects", severity=FINE, text=f"no label of {told.source} is contradicted with confidence")
    worst = int(found.suspects[0])
    label, called = told.labels[worst], told.probabilities[worst].argmax()
    text = (f"{counted(count, 'label')} of {len(told.labels):,} to look at ({told.source}), such as {told.ids[worst]}: {told.classes[label]}, "
            f"or {told.classes[called]}?")  # fmt: skip
    return Finding(kind="suspects", severity=NOTEWORTHY, text=text, count=count)


def table(told: Predictions, found: Confidence) -> Iterator[tuple]:
    """Yields the rows of `labels.csv`, the most doubtful label first."""
    for rank, i in enumerate(found.suspects, start=1):
        p, label = told.probabilities[i], int(told.labels[i])
        other = int(p.argmax())
        yield told.ids[i], told.groups[i], told.classes[label], told.classes[other], float(p[label]), float(p[other]), rank
