"""Predicts image files with a trained network, as a table."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnnjax import inference
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted
from cnnjax.runs import write_rows


def expand(inputs: Iterable[str]) -> list[str]:
    """Returns the sorted paths of files, folders (with all below, hidden files left out) and globs, each once.

    Raises:
        DataError: one of the inputs leads to no file.
    """
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
        step: "best", "latest" or the number of a checkpoint that was kept.
        progress: hears how far it is.

    Returns:
        How many files were predicted, and how many could not be read.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: no file can be read, or `output` exists or cannot be written.
    """
    progress, output = progress or Progress(), Path(output)
    paths = expand(inputs)
    if output.exists():
        raise DataError(f"{output} exists and is not overwritten; delete it or name another --output=FILE")
    classifier = inference.load(workdir, step)
    if warning := classifier.warning:
        progress.warn(warning)
    bad = 0

    def rows() -> Iterator[tuple]:
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
        write_rows(output, ("path", "predicted", *(f"p_{c}" for c in classifier.classes), "error"), rows())
    except OSError as error:
        raise DataError(f"cannot write {output} ({error.strerror}); name another --output=FILE") from None
    return len(paths) - bad, bad
