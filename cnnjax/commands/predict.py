"""Predicts image files with a trained network, as a table."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnnjax import data as data_lib
from cnnjax import inference
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted
from cnnjax.runs import write_rows


def expand(inputs: Iterable[str], progress: Progress | None = None) -> list[str]:
    """Returns the sorted paths of files, of folders with all below and of globs, each once.

    Of folders, links to folders are followed; hidden files, files of systems and what a name tells to be something else than a picture are left out,
    as in training.

    Raises:
        DataError: one of the inputs leads to no file.
    """
    found: set[str] = set()
    others = 0
    for given in inputs:
        given = os.path.expanduser(given)
        if os.path.isdir(given):
            inside, count = _files_below(given)
            others += count
        else:
            inside = [given] if os.path.isfile(given) else [p for p in glob.glob(given, recursive=True) if os.path.isfile(p)]
        if not inside:
            raise DataError(f"--input={given}: no such file, folder with files, or files that match; quote a glob, "
                            "as in --input='cells/*.png'")  # fmt: skip
        found.update(inside)
    if others and progress:
        progress.warn(f"{counted(others, 'file')} {'is not a picture' if others == 1 else 'are not pictures'}, by name, and left out; name one itself "
                      "to have it read")  # fmt: skip
    return sorted(found)


def _files_below(folder: str) -> tuple[list[str], int]:
    """The paths of what may be pictures below a folder, and the number of other files."""
    found, others, seen = [], 0, set()
    for directory, names, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(directory)) in seen:  # a link to a folder above would never end
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if not data_lib.is_system(name)]
        ours = [name for name in files if not data_lib.is_system(name)]
        pictures = [name for name in ours if not data_lib.is_other(name)]
        others += len(ours) - len(pictures)
        found += [os.path.join(directory, name) for name in pictures]
    return found, others


def _cell(path: str) -> str:
    """A path as it stands in a table: bytes that are not UTF-8 spelled out, and nothing that a spreadsheet takes for a formula."""
    text = data_lib.spelled_out(path)
    return f"./{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


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
    paths = expand(inputs, progress)
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
                yield (
                    _cell(prediction.path),
                    prediction.predicted,
                    *(p.get(c, "") for c in classifier.classes),
                    prediction.error,
                )
                advance(1)
        if bad == len(paths):
            raise DataError(f"of {counted(bad, 'file')} none could be read ({data_lib.spelled_out(prediction.path)}: {prediction.error}); name images with "
                            "--input=FILE, a folder or a quoted glob; nothing was written")  # fmt: skip

    try:
        write_rows(output, ("path", "predicted", *(f"p_{c}" for c in classifier.classes), "error"), rows())
    except OSError as error:
        raise DataError(f"cannot write {output} ({error.strerror}); name another --output=FILE") from None
    return len(paths) - bad, bad
