"""Predicts image files with a trained network, as a table."""

import collections
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnnjax import data as data_lib
from cnnjax import inference
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted
from cnnjax.runs import TABLES, Typical, write_table


def predict(workdir: str | Path, inputs: Iterable[str], output: str | Path, step: str | int = "best", *, prevalence: float | None = None,
            overwrite: bool = False, explain: str | Path = "", trust_code: bool = False, progress: Progress | None = None
            ) -> tuple[int, int]:  # fmt: skip
    """Predicts files and writes a table: `path,predicted`, a probability per class, `unlike`, `error`.

    `unlike` is above 1 for an image as one validation image in a hundred is, or less like the training images. Runs of older versions
    have no such column.

    Args:
        workdir: the run directory.
        inputs: files, folders, globs, archives, and tables (.csv, .tsv, .parquet) with a column of files.
        output: the table, in the format that its name ends in: .csv, .tsv, .parquet or .jsonl.
        step: "best", "latest" or the number of a checkpoint that was kept.
        prevalence: share of the positive class of two among these files; None: as in training.
        overwrite: replace `output` where it exists, and files in `explain`.
        explain: folder for a picture of each file with the places that speak for its class, named by its row of the table; "": none.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.
        progress: hears how far it is.

    Returns:
        How many files were predicted, and how many could not be read.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: no file can be read, `output` exists, has another ending or cannot be written, or `explain` is there and not empty.
    """
    progress, output = progress or Progress(), Path(output)
    if output.suffix.lower() not in TABLES:
        raise DataError(f"--output={output}: the name decides the format; end it in {', '.join(TABLES)}")
    found = data_lib.find_inputs(inputs)
    if found.others:
        progress.warn(f"{counted(found.others, 'file')} {'is not a picture' if found.others == 1 else 'are not pictures'}, by name, and left out; name "
                      "one itself to have it read")  # fmt: skip
    for line in found.warnings:
        progress.warn(line)
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists; replace it with --overwrite, or name another --output=FILE")
    classifier = inference.load(workdir, step, prevalence=prevalence, trust_code=trust_code)
    _say_reading(classifier, prevalence, progress)
    overlays = inference.OverlayFiles(Path(explain), classifier, overwrite=overwrite) if explain else None
    typical, references = classifier.typical, collections.deque()
    bad = strange = 0

    def files() -> Iterator[tuple[str, data_lib.Reference]]:
        for name, reference in found.stream():
            if overlays:
                references.append(reference)
            yield name, reference

    def rows() -> Iterator[tuple]:
        nonlocal bad, strange
        with progress.task("predict", found.count, "images") as advance:
            for prediction in classifier.stream_files(files(), found.count):
                if overlays:
                    overlays.add(references.popleft(), prediction)
                bad += bool(prediction.error)
                p = prediction.probabilities
                path = data_lib.spelled_out(prediction.path)
                far = [prediction.unlike] if typical else []
                strange += (prediction.unlike or 0) > 1
                yield path, prediction.predicted, *(p.get(c) for c in classifier.classes), *far, prediction.error
                advance(1)
        if overlays:
            overlays.finish()
        if bad == found.count:
            raise DataError(f"of {counted(bad, 'file')} none could be read ({path}: {prediction.error}); name images with --input=FILE, a folder "
                            "or a quoted glob; nothing was written")  # fmt: skip

    header = {"path": str, "predicted": str, **{f"p_{c}": float for c in classifier.classes}}
    header |= {**({"unlike": float} if typical else {}), "error": str}
    try:
        write_table(output, header, rows())
    except OSError as error:
        raise DataError(f"cannot write {output} ({error.strerror}); name another --output=FILE") from None
    if typical:
        _say_unlike(typical, strange, found.count - bad, progress)
    return found.count - bad, bad


def _say_reading(classifier: inference.Classifier, prevalence: float | None, progress: Progress) -> None:
    """Says how logits become probabilities and classes, where that is not as training would have it."""
    for warning in (classifier.warning, *classifier.ignored):
        if warning:
            progress.warn(warning)
    if prevalence is not None:
        progress.message(
            f"probabilities are for a share of {prevalence:g} of the positive class; training had {classifier.calibration.share:.3g}"
        )
    if len(classifier.classes) == 2 and classifier.threshold != 0.5:
        progress.message(
            f"{classifier.classes[classifier.positive]} is called from a probability of {classifier.threshold:.4g}, which validation has chosen"
        )


def _say_unlike(typical: Typical, strange: int, count: int, progress: Progress) -> None:
    """Warns of images unlike those of the training; says that this is off where it tells too little apart."""
    if not typical.can_tell:
        progress.message(f"no warning of images unlike the training images: of {len(typical.caught)} probes it catches {len(typical.found)} on this data "
                         "(see the report)")  # fmt: skip
    elif strange:
        verb = "is" if strange == 1 else "are"
        progress.warn(f"{strange:,} of {counted(count, 'image')} {verb} unlike the training images (unlike above 1, as {typical.usual}): "
                      "do not rely on their classes")  # fmt: skip
