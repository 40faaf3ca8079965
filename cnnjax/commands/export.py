"""Writes a trained network as a file for other programs, and compares the file with the run on all of its validation images."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import data as data_lib
from cnnjax import export as export_lib
from cnnjax import inference, metrics
from cnnjax.errors import ConfigError
from cnnjax.evidence import unit_of
from cnnjax.inside import sha256
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
        images: of validation, on which it was compared; 0 of safetensors, whose bits are compared.
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
    if run.is_run() and not run.has_ended():
        which = f"{step} checkpoint so far" if step in ("best", "latest") else f"checkpoint {step}"
        progress.warn(f"{run} has not come to its end; the file is of its {which}")
    if quantize not in ("", "int8"):
        raise ConfigError(f"--quantize={quantize}: use int8, or leave it out")
    kind = export_lib.check_output(output, kind, quantize)
    if ort and kind != "html":
        raise ConfigError(f"--ort={ort} is for --format=html; leave it out")
    if kind == "safetensors":
        restored = inference.restore(run.path, step, overrides or {}, trust_code=trust_code)
        portable = inference.to_portable(restored, restored.reading.readout, run)
        none = np.empty((0, *portable.card.shape, 3), np.uint8)
        found = export_lib.write(portable, output, kind, none, np.empty((0, len(portable.card.classes))))
        return _kept(
            portable.card, Exported(output, export_lib.facts_path(output), kind, found.bytes, 0, 0.0, 0, {}, {}, {})
        )
    restored, own = inference.open_split(run, "val", step, overrides or {}, trust_code=trust_code, progress=progress)
    if not inference.computes_float32(restored):
        progress.message(
            "the run computes in bfloat16; the file computes in float32, and is compared with the run's weights in float32"
        )
    runtime = export_lib.find_runtime(ort, Path(restored.config.data.cache_dir).expanduser()) if kind == "html" else None
    engine, readout, rows = inference.in_float32(restored), restored.reading.readout, own.splits["val"]
    with inference.exact_products(engine):
        logits = inference.split_logits(engine, own, "val", restored.config.data.batch_size, progress)
    p, portable = readout.probabilities(logits), inference.to_portable(restored, readout, run)
    found = export_lib.write(portable, output, kind, own.images, p, rows=rows, calibration=_calibration(own, quantize), runtime=runtime,
                             progress=progress)  # fmt: skip
    compared, same = _compared(own, restored, portable.card, logits, p, found.probabilities)
    if same < len(rows) and not quantize:
        progress.warn(f"{counted(len(rows) - same, 'image')} of {len(rows):,} are given another class: probabilities at the threshold, "
                      "within the difference")  # fmt: skip
    beside = {"bytes": found.bytes_float, "seconds": found.seconds_float} if quantize else {}
    return _kept(dataclasses.replace(portable.card, quantized=quantize), Exported(
        output, export_lib.facts_path(output), kind, found.bytes, len(rows), found.largest, same, compared, found.seconds, beside))  # fmt: skip


def _kept(card: export_lib.Card, made: Exported) -> Exported:
    """Writes the facts beside the file."""
    write_json(made.facts, {"cnnjax": card.to_dict(), "sha256": sha256(made.path), "check": made.to_dict()})
    return made


def _calibration(own: data_lib.Dataset, quantize: str) -> np.ndarray | None:
    """Training images, spread over the split, whose ranges int8 takes."""
    if not quantize:
        return None
    rows = own.splits["train"]
    return np.ascontiguousarray(own.images[rows[np.linspace(0, len(rows) - 1, min(CALIBRATION, len(rows))).astype(int)]])


def _compared(own: data_lib.Dataset, restored: inference.RestoredNetwork, card: export_lib.Card, logits: np.ndarray, p: np.ndarray,
              q: np.ndarray) -> tuple[dict[str, dict[str, Any]], int]:  # fmt: skip
    """Returns the metrics of run and file, and how many images have the same class of both."""
    rows = own.splits["val"]
    labels, groups = own.labels[rows], metrics.Groups.of(own.groups.take(rows), unit_of(restored.config.data))
    called = restored.reading.readout.called(logits), card.called(q)
    z = np.log(np.maximum(np.asarray(q, np.float64), SMALLEST)) / card.scale  # orders are those of logits before calibration
    sides = (
        metrics.Predictions(logits, labels, card.positive, calibrated=p, decided=called[0]),
        metrics.Predictions(z, labels, card.positive, calibrated=np.asarray(q, np.float64), decided=called[1]),
    )
    scores, found = [metrics.scored(side, groups) for side in sides], {}
    for name in (name for name in COMPARED if all(name in of and of[name].value is not None for of in scores)):
        one, two = (of[name] for of in scores)
        left = [metrics.without(metrics.METRICS[name], side, groups) for side in sides]
        difference = metrics.jackknife(two.value - one.value, left[1] - left[0], one.effective, link="identity", unit=groups.unit,
                                       count=groups.count)  # fmt: skip
        found[name] = {"run": one.to_dict(), "file": two.to_dict(), "difference": difference.to_dict()}
    return found, int((called[0] == called[1]).sum())
