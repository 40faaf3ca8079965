"""The evaluation of a split: its numbers, a row per image, and the images that are worth a look."""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import metrics, runtime
from cnnjax.data import Dataset
from cnnjax.errors import CheckpointError
from cnnjax.evidence import write_evidence
from cnnjax.inference.engine import Engine
from cnnjax.inference.overlays import NOTHING, choose, write_overlays
from cnnjax.inside import inside
from cnnjax.progress import Progress
from cnnjax.runs import Evaluation, Look, RunDirectory, note_look, replacing

LOOK_AT = 12
PAIRS, OF_A_PAIR = 3, 4  # pairs of classes that are confused, and images of each
MOST = 4096  # images of a batch, where training has larger ones and the split has fewer


def evaluate_split(engine: Engine, data: Dataset, split: str, *, batch_size: int, positive: int, run: RunDirectory,
                   name: str, step: int, settings: config_lib.Evidence, progress: Progress, explain: bool = True) -> Evaluation:  # fmt: skip
    """Evaluates a split and writes `eval/<name>.json`, `eval/<name>.csv`, its evidence, thumbnails to `eval/<name>-images`, overlays to
    `eval/<name>-looks`; of other splits than train `eval/<name>-properties.csv` as well.

    Thumbnails show the most confident mistakes and, of the right answers, those whose two best classes are closest, `LOOK_AT`
    each; of more than two classes also the pairs of classes that are confused most. They are made from the files as they are. Only the main process writes.

    Args:
        engine: network and weights.
        data: images, labels and splits.
        split: train, val or test.
        batch_size: that of training.
        positive: index of the positive class of two; -1 for more classes.
        run: where to write.
        name: of the files.
        step: of the checkpoint.
        settings: of the evidence, such as its level of confidence.
        progress: gets a bar.
        explain: also show where the network looks, for the mistakes of the thumbnails and for right answers of each class.
    """
    rows = data.splits[split]
    batch_size = min(batch_size, max(len(rows), MOST))
    with progress.task(f"evaluate {split}", len(rows), "images") as advance:
        logits = engine.logits_of_rows(data.images, rows, batch_size, advance)
    numbers = metrics.detailed(logits, data.labels[rows], data.classes, positive)
    evaluation = Evaluation.from_dict({"split": split, "step": step, **numbers})
    called = metrics.called(logits)
    looks = _worth_a_look(data.labels[rows], called, logits, len(data.classes))
    seen = choose(engine, data, rows, called, looks["mistakes"], batch_size) if explain else NOTHING
    if not runtime.is_main():
        return evaluation
    header = ("id", "group", "label", "predicted", *(f"p_{c}" for c in data.classes))
    run.write_rows(run.predictions(name), header, _predictions(data, rows, logits))
    if split != "train":
        run.write_rows(run.properties(name), *data_lib.properties(data, rows))
    originals = data.originals({int(rows[i]) for some in (*looks.values(), seen.order) for i in some})
    evaluation = dataclasses.replace(
        evaluation, **_thumbnails(data, rows, logits, called, looks, originals, run.thumbnails(name))
    )
    _empty(run.overlays(name))
    if explain:
        explained = write_overlays(run.overlays(name), seen, data, rows, logits, called, originals)
        evaluation = dataclasses.replace(evaluation, explained=explained)
        if explained.reason:
            progress.message(f"{split}: no pictures of where the network looks: {explained.reason}")
    run.write_evaluation(name, evaluation)
    write_evidence(run, name, settings)
    if split not in ("train", "val"):
        note_look(run, name, step, len(rows))
    return evaluation


def _predictions(data: Dataset, rows: np.ndarray, logits: np.ndarray) -> Iterator[tuple]:
    """Yields id, group, label, predicted class and probabilities of each of `rows`."""
    for part in metrics.slices(logits):
        own, p = rows[part], metrics.probabilities(logits[part])
        told = (data.ids[i] for i in own), (data.groups[i] for i in own), data.labels[own], p.argmax(1), p.tolist()
        for id, group, label, best, q in zip(*told, strict=True):
            yield id, group, data.classes[label], data.classes[best], *q


def _empty(directory: Path) -> None:
    """Removes a directory of pictures. Raises CheckpointError where what is there cannot be removed: links in it could lead elsewhere."""
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise CheckpointError(
            f"cannot replace {directory} ({error.strerror}); remove it, or copy the run to a place of your own"
        ) from None


def _confused(labels: np.ndarray, called: np.ndarray, best: np.ndarray, classes: int) -> np.ndarray:
    """Returns the rows of the most confident images of the pairs (true class, called class) that are confused most, int [at most 12]."""
    pairs = labels.astype(np.int64) * classes + called
    pairs[labels == called] = -1
    distinct, counts = np.unique(pairs[pairs >= 0], return_counts=True)
    most = distinct[np.argsort(-counts, kind="stable")][:PAIRS]
    rows = (np.flatnonzero(pairs == pair) for pair in most)
    return np.concatenate([np.empty(0, np.int64), *(own[np.argsort(-best[own], kind="stable")][:OF_A_PAIR] for own in rows)])


def _worth_a_look(labels: np.ndarray, called: np.ndarray, logits: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Returns which images are worth a look: {"mistakes", "uncertain"}, `LOOK_AT` each, and of more than two classes {"confused"}."""
    second, best = _highest(logits).T
    wrong, right = np.flatnonzero(called != labels), np.flatnonzero(called == labels)
    return {
        "mistakes": wrong[np.argsort(-best[wrong], kind="stable")][:LOOK_AT],
        "uncertain": right[np.argsort(best[right] - second[right], kind="stable")][:LOOK_AT],
        **({"confused": _confused(labels, called, best, classes)} if classes > 2 else {}),
    }


def _highest(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the second best and of the best class: float [n, 2]."""
    highest = np.empty((len(logits), 2))
    metrics.by_rows(lambda part: np.sort(metrics.probabilities(part), axis=1)[:, -2:], highest, logits)
    return highest


def _thumbnails(data: Dataset, rows: np.ndarray, logits: np.ndarray, called: np.ndarray, chosen: Mapping[str, np.ndarray],
                originals: Mapping[int, np.ndarray], directory: Path) -> dict[str, tuple[Look, ...]]:  # fmt: skip
    """Writes the images that are worth a look; returns them by the kinds of `chosen`."""
    labels = data.labels[rows]
    _empty(directory)
    looks = {}
    for kind, some in chosen.items():
        looks[kind] = []
        for place, (i, p) in enumerate(zip(some, metrics.probabilities(logits[some]), strict=True)):
            image = data_lib.thumbnail(originals.get(int(rows[i]), data.images[rows[i]]))
            suffix = ".png" if image.startswith(data_lib.PNG_SIGNATURE) else ".jpg"
            file = inside(directory, f"{kind}-{place + 1:02}{suffix}")
            with replacing(file) as temporary:
                temporary.write_bytes(image)
            looks[kind].append(Look(
                id=data.ids[rows[i]],
                label=data.classes[labels[i]],
                predicted=data.classes[called[i]],
                probability=float(p[called[i]]),
                file=f"{directory.name}/{file.name}",
                sha256=hashlib.sha256(image).hexdigest(),
            ))  # fmt: skip
    return {kind: tuple(some) for kind, some in looks.items()}
