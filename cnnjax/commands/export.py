"""Writes a trained network as a file for other programs, and compares the file with the run on all of its validation images."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import data as data_lib
from cnnjax import export as export_lib
from cnnjax import inference, metrics
from cnnjax.errors import ConfigError
from cnnjax.evidence import unit_of
from cnnjax.progress import Progress, counted
from cnnjax.runs import RunDirectory, check_single, write_json

CALIBRATION = 200  # training images by which ranges of int8 are found; more changed nothing on malaria cells
COMPARED = ("accuracy", "balanced_accuracy", "auc", "macro_auc", "log_loss", "brier")  # rows of `METRICS` that are shown
SMALLEST = 1e-38  # probability below which its logarithm is no lower


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file; `facts` is beside it.
        facts: name of the JSON file with what follows, and the card of the network.
        kind: a key of `export.FORMATS`.
        bytes: of the file.
        images: of validation, on which it was compared.
        largest: the largest difference of a probability to the run's.
        same: images that are given the same class.
        metrics: name -> "run" and "file", each a score with its interval, and "difference", file - run, by groups; {} of safetensors.
        seconds: images of a call -> median seconds of a call of the file's runtime; {} of safetensors.
        float32: of int8, "bytes" of the float32 file and "seconds" of its calls by turns with these; {} else.
    """

    path: Path
    facts: Path
    kind: str
    bytes: int
    images: int
    largest: float
    same: int
    metrics: dict[str, dict[str, Any]]
    seconds: dict[int, float]
    float32: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file, without the card."""
        tree = dataclasses.asdict(self)
        return {**tree, "path": self.path.name, "facts": self.facts.name}


def export(workdir: str | Path, output: str | Path, kind: str = "", step: str | int = "best", *, quantize: str = "",
           ort: str = "", overrides: Mapping[str, Any] | None = None, trust_code: bool = False, progress: Progress | None = None) -> Exported:  # fmt: skip
    """Writes a network as ONNX, StableHLO, LiteRT, safetensors or a page for browsers.

    Preprocessing from uint8 pixels on, calibration and sigmoid or softmax are inside; the threshold and all other facts are in the
    file's metadata, and in `<output>.json`. The file is loaded in a fresh process without cnnjax and compared on validation.

    Args:
        workdir: the run directory.
        output: the file, which must not exist.
        kind: onnx, stablehlo, litert, html or safetensors; "": by the ending of `output`.
        step: "best", "latest" or the number of a checkpoint that was kept.
        quantize: "int8": weights and activations of 8 bits, their ranges from training images; "": float32.
        ort: folder of ONNX Runtime Web, for html; "": that in the cache, which npm fetches.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.
        progress: hears how far it is.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: `output` exists, a package is missing, the format cannot hold the network, or the file differs from the run.
        DataError: the images of the run cannot be used.
    """
    progress, output, run = progress or Progress(), Path(output), RunDirectory(workdir)
    check_single(run)
    if quantize not in ("", "int8"):
        raise ConfigError(f"--quantize={quantize}: use int8, or leave it out")
    kind = export_lib.check_output(output, kind, quantize)
    if ort and kind != "html":
        raise ConfigError(f"--ort={ort} is for --format=html; leave it out")
    restored, own = inference.open_split(run, "val", step, overrides or {}, trust_code=trust_code, progress=progress)
    if not inference.computes_float32(restored):
        progress.message(
            "the run computes in bfloat16; the file computes in float32, and is compared with the run's weights in float32"
        )
    runtime = export_lib.find_runtime(ort, Path(restored.config.data.cache_dir).expanduser()) if kind == "html" else None
    engine, readout = inference.in_float32(restored), restored.reading.readout
    with inference.exact_products(engine):
        logits = inference.split_logits(engine, own, "val", restored.config.data.batch_size, progress)
    p = readout.probabilities(logits)
    portable = inference.to_portable(restored, readout, run)
    rows = own.splits["val"]
    found = export_lib.write(
        portable, output, kind, own.images, p, rows=rows, calibration=_calibration(own, quantize), progress=progress
    )
    compared, same = _compared(own, restored, portable.card, logits, p, found.probabilities)
    made = Exported(
        output, export_lib.facts_path(output), kind, found.bytes, len(rows), found.largest, same, compared, found.seconds,
        {"bytes": found.bytes_float, "seconds": found.seconds_float} if quantize else {},
    )  # fmt: skip
    card = dataclasses.replace(portable.card, quantized=quantize)
    write_json(made.facts, {"cnnjax": card.to_dict(), "sha256": _sha256(output), "check": made.to_dict()})
    if same < len(rows) and not quantize:
        progress.warn(f"{counted(len(rows) - same, 'image')} of {len(rows):,} are given another class: probabilities at the threshold, "
                      "within the difference")  # fmt: skip
    return made


def _calibration(own: data_lib.Dataset, quantize: str) -> np.ndarray | None:
    """Training images, spread over the split, whose ranges int8 takes."""
    if not quantize:
        return None
    rows = own.splits["train"]
    return np.ascontiguousarray(own.images[rows[np.linspace(0, len(rows) - 1, min(CALIBRATION, len(rows))).astype(int)]])


def _compared(own: data_lib.Dataset, restored: inference.RestoredNetwork, card: export_lib.Card, logits: np.ndarray, p: np.ndarray,
              q: np.ndarray | None) -> tuple[dict[str, dict[str, Any]], int]:  # fmt: skip
    """Returns the metrics of run and file, and how many images have the same class of both."""
    rows = own.splits["val"]
    if q is None:  # the same bits
        return {}, len(rows)
    labels, groups = own.labels[rows], metrics.Groups.of(own.groups.take(rows), unit_of(restored.config.data))
    called = restored.reading.readout.called(logits), card.called(q)
    z = np.log(np.maximum(np.asarray(q, np.float64), SMALLEST))
    sides = (
        metrics.Predictions(logits, labels, card.positive, calibrated=p, decided=called[0]),
        metrics.Predictions(z, labels, card.positive, calibrated=np.asarray(q, np.float64), decided=called[1]),
    )
    scores = [metrics.scored(side, groups) for side in sides]
    pair = metrics.compared(labels, *(metrics.Side(side.decided, side.calibrated, side.margin if card.positive >= 0 else None)
                                      for side in sides), groups, card.positive)  # fmt: skip
    found = {}
    for name in (name for name in COMPARED if name in scores[0] and name in scores[1]):
        one, two = (of[name].to_dict() for of in scores)
        difference = pair.metrics[name].score.to_dict() if name in pair.metrics else None
        found[name] = {"run": one, "file": two, "difference": difference}
    return found, int((called[0] == called[1]).sum())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
