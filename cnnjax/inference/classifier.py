"""One verb: predict images that the network has never seen."""

import dataclasses
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cnnjax import data as data_lib
from cnnjax import metrics, runs
from cnnjax.errors import DataError
from cnnjax.inference.restoring import RestoredNetwork, restore
from cnnjax.progress import Progress, counted


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The network's answer to one file.

    Attributes:
        path: the file.
        predicted: name of the most probable class; "" where the file cannot be read.
        probabilities: class name -> probability; {} where the file cannot be read.
        error: why it cannot be read, else "".
    """

    path: str
    predicted: str
    probabilities: dict[str, float]
    error: str = ""


class Classifier:
    """A trained network that takes image files; made by `load`."""

    def __init__(self, restored: RestoredNetwork):
        self._restored = restored
        self.classes = restored.classes
        self.step = restored.step

    def predict(self, paths: str | Path | Iterable[str | Path]) -> list[Prediction]:
        """Predicts image files, decoded and resized as in training; one result per path, in order."""
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return list(self.stream([str(path) for path in paths]))

    def stream(self, paths: list[str]) -> Iterator[Prediction]:
        """Yields the results of `predict` one at a time; memory does not grow with the number of files."""
        image = self._restored.config.image
        references = (data_lib.FileReference(path) for path in paths)
        workers = self._restored.config.runtime.workers
        names = iter(paths)
        for pixels, facts in data_lib.decode_all(references, len(paths), image.size, image.resize, workers):
            p = metrics.probabilities(self._restored.engine.logits(pixels))
            for path, q, fact in zip(itertools.islice(names, len(facts)), p, facts, strict=True):
                yield Prediction(path, "", {}, fact["reason"]) if fact["reason"] else self._prediction(path, q)

    def _prediction(self, path: str, p: np.ndarray) -> Prediction:
        return Prediction(path, self.classes[p.argmax()], dict(zip(self.classes, map(float, p), strict=True)))


def load(workdir: str | Path, step: str | int = "best") -> Classifier:
    """The classifier of a run directory, on this process's devices.

    Args:
        workdir: a run directory, wherever it was trained.
        step: "best", "latest" or the number of a checkpoint that was kept.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
    """
    return Classifier(restore(workdir, step))


def expand(inputs: Iterable[str]) -> list[str]:
    """Files, folders (with all below, hidden files left out) and globs -> sorted paths, each once."""
    found: set[str] = set()
    for given in inputs:
        given = os.path.expanduser(given)
        if os.path.isdir(given):
            inside = [os.path.join(d, f) for d, _, files in os.walk(given) for f in files if not f.startswith(".")]
        else:
            inside = [given] if os.path.isfile(given) else [p for p in glob.glob(given, recursive=True) if os.path.isfile(p)]
        if not inside:
            raise DataError(f"--input={given}: no such file, folder with files, or files that match; quote a glob, "
                            "as in --input='cells/*.png'")  # fmt: skip
        found.update(inside)
    return sorted(found)


def predict(workdir: str | Path, inputs: Iterable[str], output: str | Path, step: str | int = "best", *,
            progress: Progress | None = None) -> tuple[int, int]:  # fmt: skip
    """Predicts files and writes a CSV: `path,predicted`, a probability per class, `error`.

    Args:
        workdir: the run directory.
        inputs: files, folders and globs.
        output: the CSV file; it must not exist.
        step: which checkpoint.
        progress: hears how far it is.

    Returns:
        How many files were predicted, and how many could not be read.

    Raises:
        CheckpointError: as `load`.
        DataError: no file can be read, or `output` exists or cannot be written.
    """
    progress, output = progress or Progress(), Path(output)
    paths = expand(inputs)
    if output.exists():
        raise DataError(f"{output} exists and is not overwritten; delete it or name another --output=FILE")
    classifier = load(workdir, step)
    bad = 0

    def rows():
        nonlocal bad
        with progress.task("predict", len(paths), "images") as advance:
            for prediction in classifier.stream(paths):
                bad += bool(prediction.error)
                p = prediction.probabilities
                yield (prediction.path, prediction.predicted, *(p.get(c, "") for c in classifier.classes), prediction.error)
                advance(1)
        if bad == len(paths):
            raise DataError(f"of {counted(bad, 'file')} none could be read ({prediction.path}: {prediction.error}); name images with "
                            "--input=FILE, a folder or a quoted glob; nothing was written")  # fmt: skip

    try:
        runs.write_rows(output, ("path", "predicted", *(f"p_{c}" for c in classifier.classes), "error"), rows())
    except OSError as error:
        raise DataError(f"cannot write {output} ({error.strerror}); name another --output=FILE") from None
    return len(paths) - bad, bad
