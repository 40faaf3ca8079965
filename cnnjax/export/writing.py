"""A network written in a format, tried in a fresh process, and kept only if its numbers are right."""

import contextlib
import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnnjax.errors import ConfigError
from cnnjax.export import int8, litert, onnx_file, published, stablehlo, web
from cnnjax.export.drawn import drawn_images
from cnnjax.export.portable import Portable
from cnnjax.export.trial import Trial, trial
from cnnjax.progress import Progress
from cnnjax.runs import replacing

LIMIT = 1e-5  # the largest difference of a probability of float32 that is let pass
AT_ONCE = 32  # images of a call
REPEATS = 15  # calls of which the median is the speed


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to write a network.

    Attributes:
        ending: of the file's name.
        write: (network, path) -> None.
        needs: modules that have to be installed.
        extra: of the package, which brings them.
        quantized: (network, path, training images) -> None, for int8; None: there is none.
        runs: the format of what is written and tried, where a page is made of it afterwards; "": this one.
    """

    ending: str
    write: Callable[[Portable, Path], None]
    needs: tuple[str, ...] = ()
    extra: str = "export"
    quantized: Callable[[Portable, Path, np.ndarray], None] | None = None
    runs: str = ""


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", onnx_file.write, ("onnx", "onnxruntime"), quantized=int8.write),
    "stablehlo": Format(".stablehlo", stablehlo.write, ("flatbuffers",)),
    "litert": Format(".tflite", litert.write, ("tensorflow", "ai_edge_litert"), "litert", quantized=litert.write),
    "html": Format(".html", onnx_file.write, ("onnx", "onnxruntime"), quantized=int8.write, runs="onnx"),
    "safetensors": Format(".safetensors", published.write),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A file that was tried.

    Attributes:
        probabilities: float32 [n, classes], of the file; None of safetensors, which are compared bit by bit.
        largest: the largest difference of a probability to the run's.
        bytes: of the file.
        bytes_float: of the same network in float32, where the file is int8 and not a page.
        seconds: images of a call -> median seconds of a call.
        seconds_float: the same of float32, by turns with int8.
    """

    probabilities: np.ndarray | None
    largest: float
    bytes: int
    bytes_float: int = 0
    seconds: dict[int, float] = dataclasses.field(default_factory=dict)
    seconds_float: dict[int, float] = dataclasses.field(default_factory=dict)


def check_output(path: Path, kind: str, quantize: str = "") -> str:
    """Checks everything about an export that can be known before work; returns the format.

    Args:
        path: of the file to write.
        kind: a key of `FORMATS`; "": by the ending of the name.
        quantize: "int8" or "".

    Raises:
        ConfigError: no such format, another ending, a file that exists, or a package that is not installed.
    """
    endings = {chosen.ending: name for name, chosen in FORMATS.items()}
    kind = kind or endings.get(path.suffix.lower(), "")
    if kind not in FORMATS:
        raise ConfigError(f"--output={path}: the name decides the format; end it in {', '.join(endings)}, or add --format")
    chosen = FORMATS[kind]
    if path.suffix.lower() != chosen.ending:
        raise ConfigError(
            f"--output={path}: a file of --format={kind} ends in {chosen.ending}; write --output={path.with_suffix(chosen.ending)}"
        )
    if quantize and chosen.quantized is None:
        able = " or ".join(f"--format={name}" for name, of in FORMATS.items() if of.quantized)
        raise ConfigError(f"--quantize={quantize} is not for --format={kind}; use {able}")
    folder = next(own for own in path.absolute().parents if own.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "it is a folder" if path.is_dir() else f"{folder} is not a folder that can be written to"
        raise ConfigError(f"cannot write {path} ({why}); name another --output=FILE{chosen.ending}")
    for own in (path, facts_path(path)):
        if own.exists() or own.is_symlink():
            raise ConfigError(f"{own} exists, and is not replaced; remove it, or name another --output=FILE{chosen.ending}")
    if missing := [name for name in chosen.needs if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"--format={kind} takes {' and '.join(missing)}: pip install 'cnnjax[{chosen.extra}]'")
    return kind


def facts_path(path: Path) -> Path:
    """Returns the name of the JSON file beside an exported file: the facts, and how the file was checked."""
    return path.with_name(f"{path.name}.json")


def write(portable: Portable, path: Path, kind: str, images: np.ndarray, p: np.ndarray, *, rows: np.ndarray | None = None,
          calibration: np.ndarray | None = None, runtime: Path | None = None, progress: Progress | None = None) -> Outcome:  # fmt: skip
    """Writes a network and compares the file with the run, in a fresh process.

    Args:
        portable: the network.
        path: of the file, as `check_output` lets it pass.
        kind: a key of `FORMATS`.
        images: uint8 [n, height, width, 3], to compare on.
        p: float64 [rows, classes], the run's calibrated probabilities of them.
        rows: int, which of `images`; None: all.
        calibration: uint8 [m, height, width, 3], training images; with them the file is int8.
        runtime: folder of ONNX Runtime Web, for html.
        progress: gets a bar.

    Raises:
        ConfigError: the file differs from the run by more than `LIMIT`, or cannot be used; then no file is left.
    """
    chosen, progress = FORMATS[kind], progress or Progress()
    rows = np.arange(len(images)) if rows is None else rows
    with replacing(path) as temporary, contextlib.ExitStack() as held:
        if calibration is None:
            chosen.write(portable, temporary)
        else:
            chosen.quantized(portable, temporary, calibration)
        if kind == "safetensors":
            return Outcome(None, 0.0, temporary.stat().st_size)
        own = held.enter_context(_tried(portable, temporary, kind))
        found = _asked(own, images, rows, progress)
        largest = float(np.abs(found - p).max()) if len(p) else 0.0
        if not np.isfinite(found).all() or (calibration is None and largest > LIMIT):
            raise ConfigError(f"--format={kind}: a probability of the file differs from the run's by {largest:.2g}, and at most {LIMIT:g} is let "
                              "pass; nothing was written: use another --format")  # fmt: skip
        plain, trials = 0, [own]
        if calibration is not None:
            other = Path(held.enter_context(tempfile.TemporaryDirectory())) / f"float{chosen.ending}"
            chosen.write(portable, other)
            plain = 0 if kind == "html" else other.stat().st_size  # most of a page is its runtime
            trials.append(held.enter_context(_tried(portable, other, kind)))
        seconds = _speeds(trials, images, rows)
        if kind == "html":
            pixels = drawn_images(portable.card.shape)
            card = dataclasses.replace(portable.card, quantized="" if calibration is None else "int8")
            web.wrap(temporary, card, runtime, own.probabilities(pixels))
        return Outcome(found, largest, temporary.stat().st_size, plain, *seconds)


def _tried(portable: Portable, path: Path, kind: str) -> contextlib.AbstractContextManager[Trial]:
    return trial(path, FORMATS[kind].runs or kind, portable.card.shape, len(portable.card.classes))


def _asked(own: Trial, images: np.ndarray, rows: np.ndarray, progress: Progress) -> np.ndarray:
    found = np.empty((len(rows), own.classes), np.float32)
    with progress.task("check the file", len(rows), "images") as advance:
        for at in range(0, len(rows), AT_ONCE):
            part = rows[at : at + AT_ONCE]
            found[at : at + len(part)] = own.probabilities(images[part])
            advance(len(part))
    return found


def _speeds(trials: list[Trial], images: np.ndarray, rows: np.ndarray) -> list[dict[int, float]]:
    """Median seconds of calls of one image and of `AT_ONCE`, of each process, which take turns."""
    found: list[dict[int, float]] = [{} for _ in trials]
    for count in (1, AT_ONCE):
        pixels = images[np.resize(rows, count)]
        for own in trials:
            own.probabilities(pixels)  # compiles
            own.seconds.clear()
        for _ in range(REPEATS):
            for own in trials:
                own.probabilities(pixels)
        for own, seconds in zip(trials, found, strict=True):
            seconds[count] = float(np.median(own.seconds))
    return found
