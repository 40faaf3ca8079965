"""A run as Python code sees it."""

import dataclasses
from pathlib import Path
from typing import Any

from cnnjax.errors import CheckpointError
from cnnjax.evidence import Evidence, read_evidence
from cnnjax.inference.classifier import Classifier
from cnnjax.inference.ensemble import load
from cnnjax.runs import Record, RunDirectory, Summary

Numbers = dict[str, float | int | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Run(Record):
    """A finished run. It also reads as the mapping of its summary: `run["best_step"]`.

    Attributes:
        workdir: the run directory.
        summary: what `summary.json` holds.
    """

    workdir: Path
    summary: Summary

    @classmethod
    def open(cls, workdir: str | Path) -> "Run":
        """Opens a run that has been trained. Raises CheckpointError where there is none, or only its beginning."""
        return cls(Path(workdir), RunDirectory(workdir).expect_summary())

    @property
    def best_step(self) -> int:
        """Step of the checkpoint with the best epoch."""
        return self.summary.best_step

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of `history.csv`, one per epoch."""
        return RunDirectory(self.workdir).read_history()

    @property
    def train(self) -> Numbers | None:
        """Name of a metric -> value on the training images at the best step."""
        return self.summary.train

    @property
    def val(self) -> Numbers | None:
        """Name of a metric -> value on the validation images at the best step."""
        return self.summary.val

    @property
    def test(self) -> Numbers | None:
        """Name of a metric -> value on the test images at the best step; None for a split without test images."""
        return self.summary.test

    def evidence(self, split: str = "test") -> Evidence:
        """Returns how sure the numbers of a split are: `run.evidence("test").metrics["auc"].low`.

        Raises:
            CheckpointError: there is none, or its file is damaged.
        """
        found = read_evidence(RunDirectory(self.workdir), split)
        if found is None:
            raise CheckpointError(
                f"{self.workdir} has no evidence of {split}; write it with --mode=evidence --workdir={self.workdir}"
            )
        return found

    def classifier(self, step: str | int = "best") -> Classifier:
        """Loads the network of a checkpoint: "best", "latest" or a number."""
        return load(self.workdir, step)

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of `summary.json`."""
        return self.summary.to_dict()
