"""A run as its pages read it: everything that its directory holds so far. Nothing is computed anew."""

import contextlib
import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import runs
from cnnjax.errors import CheckpointError
from cnnjax.evidence import Evidence, read_evidence
from cnnjax.metrics import METRICS

JUDGED = {"test": "test", "val": "validation"}  # the splits that a page shows in detail, the first that there is


@dataclasses.dataclass(frozen=True)
class Record:
    """The files of a run, read. Missing files are empty, or None.

    Attributes:
        directory: their place.
        config: key -> value, as in `config.json`.
        summary: None before the first stop.
        history: rows of `history.csv`.
        network: rows of `network.json`.
        splits: rows of `splits.csv`.
        evaluations: split, or data-NAME of another set -> its evaluation at the best step.
        quarantine: (id, reason) of the files that were left out.
        evidence: likewise, how sure its numbers are; without those of evaluations by an older version.
    """

    directory: runs.RunDirectory
    config: Mapping[str, Any]
    summary: runs.Summary | None
    history: Sequence[Mapping[str, float]]
    network: Sequence[runs.Layer]
    splits: data_lib.Rows
    evaluations: Mapping[str, runs.Evaluation]
    quarantine: Sequence[Sequence[str]]
    evidence: Mapping[str, Evidence] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the config, else of the directory."""
        return self.config["name"] or self.directory.path.name

    @property
    def title(self) -> str:
        """Name of the config and of the directory, once where they agree."""
        own = self.directory.path.resolve().name
        return self.name if self.name in ("", own) else f"{self.name}: {own}"

    def called(self, name: str) -> str:
        """Returns what names the run in a sentence: its directory, say, and the config where that has another name."""
        config = self.config["name"]
        return name if config in ("", name) else f"{name} (config {config})"

    @property
    def is_finished(self) -> bool:
        """Tells whether the run has come to its end."""
        return self.summary is not None and self.summary.stopped in ("finished", "early")

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.summary.classes if self.summary else sorted(set(self.splits.labels))

    @property
    def judged(self) -> str:
        """The split that pages show in detail: test, else validation; "" before an evaluation."""
        return next((name for name in JUDGED if name in self.evaluations), "")

    @property
    def judgement(self) -> runs.Evaluation:
        """The evaluation of `judged`."""
        return self.evaluations[self.judged]

    @property
    def sureness(self) -> Evidence | None:
        """The evidence of `judged`; None of an older version."""
        return self.evidence.get(self.judged)

    @property
    def threshold(self) -> float:
        """The probability from which the positive class of two is called in `judged`."""
        return self.sureness.threshold.get("threshold", 0.5) if self.sureness else 0.5

    @property
    def robustness(self) -> runs.Robustness | None:
        """Scores of changed images of `judged`, of the checkpoint and the threshold of its other numbers; None where there are none."""
        found = runs.read_robustness(self.directory, self.judged)
        return found if found and (found.step, found.threshold) == (self.judgement.step, self.threshold) else None

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels that the network sees."""
        return self.config["image.size"], self.config.get("image.width") or self.config["image.size"]

    @property
    def weights(self) -> str:
        """The weights that training began with, on one line; "" for drawn ones."""
        return self.summary.weights.text if self.summary and self.summary.weights else ""

    @property
    def best_step(self) -> int:
        """Step of the best epoch so far; 0 before the first, or before the first stop where the history is without `train.monitor`."""
        monitor = self.config.get("train.monitor", "val_loss")
        name, sign = {"val_loss": ("val_loss", 1), "val_accuracy": ("val_accuracy", -1), config_lib.LAST: ("step", -1)}.get(
            monitor, ("", 0)
        )
        rows = [(sign * row[name], row["step"]) for row in self.history] if sign else []
        return (self.summary.best_step if self.summary else 0) or min(rows, default=(0, 0))[1]

    @property
    def monitor(self) -> str:
        """The number that chose the best epoch, in words: "validation loss"; "" where none did, and the last one is kept."""
        name = self.config.get("train.monitor", "val_loss").removeprefix("val_")
        return "" if name == config_lib.LAST else f"validation {METRICS[name].title if name in METRICS else name}"

    @property
    def turn(self) -> str:
        """The word for a row of the history: epoch, or of a probe penalty."""
        return "penalty" if self.config.get("train.method") == "probe" else "epoch"

    @property
    def best_row(self) -> Mapping[str, float] | None:
        """Row of the history at `best_step`."""
        return next((row for row in self.history if row["step"] == self.best_step), None)

    def scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Reads the predictions of a task of two classes.

        Returns:
            bool [n], whether an image is positive, and float64 [n], its probability of that. None for more classes, and where an
            image of either class is missing.
        """
        if not self.judged or not self.judgement.positive:
            return None
        positive = self.judgement.positive
        path = self.directory.predictions(self.judged)
        rows = self.directory.read_rows(path)
        try:
            if (header := next(rows, None)) is None:  # the table was removed
                return None
            label, score = header.index("label"), header.index(f"p_{positive}")
            table = np.fromiter(
                ((row[label] == positive, float(row[score])) for row in rows), [("label", bool), ("score", float)]
            )
        except (ValueError, IndexError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); write it anew with --mode=eval --split={self.judged}"
            ) from None
        labels, scores = table["label"], table["score"]
        return (labels, scores) if 0 < labels.sum() < len(labels) else None

    def thumbnail(self, look: runs.Look) -> bytes | None:
        """Returns the encoded image of a look; None where its file is gone. Raises CheckpointError for another image."""
        path = self.directory.picture(look.file)
        encoded = path.read_bytes() if path.is_file() else None
        if encoded is not None and look.sha256 and hashlib.sha256(encoded).hexdigest() != look.sha256:
            raise CheckpointError(f"{path} is not as it was written; restore it, or remove it to go on without it")
        return encoded


@contextlib.contextmanager
def fitting(*directories: runs.RunDirectory) -> Iterator[None]:
    """Around the making of a page: numbers that no run has, as the files of a stranger may hold, as CheckpointError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "constrained_layout not applied")
            yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"the files of {' or '.join(map(str, directories))} hold what no run writes ({type(error).__name__}: {reason}); restore "
                              "them from a copy") from error  # fmt: skip


def read_record(directory: runs.RunDirectory) -> Record:
    """Reads a run, finished or under way.

    Raises:
        CheckpointError: the directory holds no run, or a file of it is damaged.
    """
    runs.check_single(directory)
    if not directory.is_run():
        raise CheckpointError(f"{directory} holds no run; train first, or name a run directory with --workdir=DIR")
    for path in (directory.splits, directory.summary):
        directory.sealed.check(path)
    others = sorted(
        path.stem for path in directory.evaluations.glob("data-*.json") if directory.predictions(path.stem).exists()
    )
    read = {name: directory.read_evaluation(name) for name in (*data_lib.SPLITS, *others)}
    return Record(
        directory=directory,
        config=dict(config_lib.flatten(directory.read_config())),
        summary=directory.read_summary(),
        history=directory.read_history(),
        network=directory.read_network(),
        splits=data_lib.read_splits(directory.splits) if directory.splits.exists() else data_lib.NO_ROWS,
        evaluations={name: evaluation for name, evaluation in read.items() if evaluation},
        quarantine=[*directory.read_rows(directory.quarantine)][1:],
        evidence={
            name: made for name, evaluation in read.items() if evaluation and (made := read_evidence(directory, name))
        },
    )
