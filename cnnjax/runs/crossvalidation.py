"""The results of a cross-validation: `crossvalidation.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from cnnjax.errors import CheckpointError
from cnnjax.inside import inside
from cnnjax.metrics import Score
from cnnjax.runs.directory import RunDirectory
from cnnjax.runs.files import damaged_line
from cnnjax.runs.results import Record
from cnnjax.typed import typed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold, as its own network judges it.

    Attributes:
        name: "r<repeat>k<fold>", of its run in `folds/`.
        images, groups: in its test part; 0 groups where there are none.
        epochs: that were trained.
        best_epoch: the one that validation has chosen.
        temperature: by which its logits are divided; None where they are not calibrated.
        numbers: name of a metric -> value on its test part.
    """

    name: str
    images: int
    groups: int
    epochs: int
    best_epoch: int
    temperature: float | None
    numbers: dict[str, float | int | None]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CrossValidation(Record):
    """All folds together.

    Attributes:
        name: of the config.
        folds: of each repeat.
        repeats: times that the images were divided anew.
        classes: names in the order of the probabilities.
        positive: the positive class of two; "" for more classes.
        images, groups: in all; 0 groups where there are none.
        unit: what a group is: "patient", "group".
        level: confidence of the intervals.
        rows: a row for each network.
        scores: name of a metric -> value of the whole, with its interval.
        pooled: name of a metric whose score is a mean over folds -> its value on the predictions of all folds together.
        spread: name of a metric -> standard deviation between folds.
        notes: lines about what the numbers mean.
    """

    name: str
    folds: int
    repeats: int
    classes: tuple[str, ...]
    positive: str
    images: int
    groups: int
    unit: str
    level: float
    rows: tuple[Fold, ...]
    scores: dict[str, Score]
    pooled: dict[str, float | None]
    spread: dict[str, float | None]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file."""
        return {**dataclasses.asdict(self), "classes": list(self.classes), "notes": list(self.notes),
                "rows": [dataclasses.asdict(row) for row in self.rows]}  # fmt: skip

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`. Raises TypeError or KeyError for another."""
        return typed(tree, cls, "crossvalidation")


def read_crossvalidation(run: RunDirectory) -> CrossValidation:
    """Returns the results of a cross-validation. Raises CheckpointError where there are none yet, or damaged ones."""
    if not run.crossvalidation.exists():
        raise CheckpointError(f"{run} is a cross-validation that has not come to its end; continue it with --mode=crossvalidate and its "
                              "--config")  # fmt: skip
    try:
        return CrossValidation.from_dict(run.read_json(run.crossvalidation))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(damaged_line(run.crossvalidation, error)) from None


def fold_run(run: RunDirectory, repeat: int, fold: int) -> RunDirectory:
    """Returns the run of one fold of a cross-validation, `folds/r<repeat>k<fold>`."""
    return RunDirectory(inside(run.folds, f"r{repeat}k{fold}"))


def fold_runs(run: RunDirectory) -> list[RunDirectory]:
    """Returns the runs of all folds. Raises CheckpointError where the cross-validation has not come to its end."""
    found = read_crossvalidation(run)
    return [fold_run(run, repeat, fold) for repeat in range(found.repeats) for fold in range(found.folds)]


def is_crossvalidation(run: RunDirectory) -> bool:
    """Returns whether a directory holds the folds of a cross-validation, each of which is a run."""
    return run.folds_table.exists()


def check_single(run: RunDirectory) -> None:
    """Raises CheckpointError for the directory of a cross-validation, where one run is needed."""
    if is_crossvalidation(run):
        raise CheckpointError(f"{run} is a cross-validation, not one run: continue it with --mode=crossvalidate, see its numbers with --mode=report, "
                              f"use all of its networks with --mode=predict, or name one of them: --workdir={fold_run(run, 0, 0)}")  # fmt: skip
