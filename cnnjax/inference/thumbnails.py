"""Pictures of the images that are worth a look: mistakes, uncertain answers, classes that are confused."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnnjax import data as data_lib
from cnnjax import metrics
from cnnjax.data import Dataset
from cnnjax.errors import CheckpointError
from cnnjax.inside import inside
from cnnjax.runs import Look, replacing

LOOK_AT = 12
PAIRS, OF_A_PAIR = 3, 4  # pairs of classes that are confused, and images of each


def remove(directory: Path) -> None:
    """Removes a directory of pictures. Raises CheckpointError where what is there cannot be removed: links in it could lead elsewhere."""
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise CheckpointError(
            f"cannot replace {directory} ({error.strerror}); remove it, or copy the run to a place of your own"
        ) from None


def worth_a_look(
    labels: np.ndarray, called: np.ndarray, logits: np.ndarray, readout: metrics.Readout
) -> dict[str, np.ndarray]:
    """Returns which images are worth a look: {"mistakes", "uncertain"}, `LOOK_AT` each, and of more than two classes {"confused"}.

    Args:
        labels, called: int [n], the true class and the one that is called.
        logits: float [n, classes], or [n, 1] of the second of two classes.
        readout: from logits to probabilities.
    """
    best, second = metrics.by_rows(
        lambda part, own: _best_two(readout.probabilities(part), own), np.empty((len(labels), 2)), logits, called
    ).T
    wrong, right = np.flatnonzero(called != labels), np.flatnonzero(called == labels)
    return {
        "mistakes": wrong[np.argsort(-best[wrong], kind="stable")][:LOOK_AT],
        "uncertain": right[np.argsort(np.abs(best[right] - second[right]), kind="stable")][:LOOK_AT],
        **({"confused": _confused(labels, called, best, logits.shape[1])} if logits.shape[1] > 2 else {}),
    }


def _best_two(p: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Probabilities of the called class and of the best other one, float64 [n, 2]."""
    p, row = p.copy(), np.arange(len(p))
    own = p[row, called]
    p[row, called] = -1
    return np.stack([own, p.max(1)], axis=1)


def _confused(labels: np.ndarray, called: np.ndarray, best: np.ndarray, classes: int) -> np.ndarray:
    """Returns the rows of the most confident images of the pairs (true class, called class) that are confused most, int [at most 12]."""
    pairs = labels.astype(np.int64) * classes + called
    pairs[labels == called] = -1
    distinct, counts = np.unique(pairs[pairs >= 0], return_counts=True)
    most = distinct[np.argsort(-counts, kind="stable")][:PAIRS]
    rows = (np.flatnonzero(pairs == pair) for pair in most)
    return np.concatenate([np.empty(0, np.int64), *(own[np.argsort(-best[own], kind="stable")][:OF_A_PAIR] for own in rows)])


def write_thumbnails(directory: Path, chosen: Mapping[str, np.ndarray], data: Dataset, rows: np.ndarray, logits: np.ndarray,
                     readout: metrics.Readout, called: np.ndarray, originals: Mapping[int, np.ndarray]
                     ) -> dict[str, tuple[Look, ...]]:  # fmt: skip
    """Writes the images that are worth a look in place of what the directory holds; returns them by the kinds of `chosen`.

    Args:
        directory: for the pictures.
        chosen: kind -> places in `rows`.
        data: images and labels.
        rows: int [n], the images of the evaluation.
        logits: float [n, outputs].
        readout: from logits to probabilities.
        called: int [n], the class that is called.
        originals: row -> the image as its file has it, of those that can be read.
    """
    labels = data.labels[rows]
    remove(directory)
    looks = {}
    for kind, some in chosen.items():
        looks[kind] = []
        for place, (i, p) in enumerate(zip(some, readout.probabilities(logits[some]), strict=True)):
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
