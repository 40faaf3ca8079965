"""Scores of images that were changed, beside those of the same images as they are: `eval/<split>-robustness.json`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cnnjax.metrics import Score
from cnnjax.runs.directory import RunDirectory
from cnnjax.typed import typed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changed:
    """One kind of change at one strength.

    Attributes:
        name: of the change with its strength, in words: "noise of 10 levels".
        scores: name of a rate -> it, of the changed images.
        changes: name of a rate -> it minus that of the images as they are, with its paired interval.
    """

    name: str
    scores: dict[str, Score]
    changes: dict[str, Score]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """One checkpoint on changed images of one split.

    Attributes:
        split: train, val or test.
        step: the checkpoint.
        images: how many were looked at.
        of: how many the split has.
        level: confidence of the intervals.
        positive: the positive class of two; "" for more classes.
        threshold: probability from which that was called.
        clean: name of a rate -> it, of the images as they are.
        rows: the changes, in a fixed order.
    """

    split: str
    step: int
    images: int
    of: int
    level: float
    positive: str
    threshold: float
    clean: dict[str, Score]
    rows: tuple[Changed, ...]

    def __post_init__(self):
        scores = [score for row in self.rows for part in (row.scores, row.changes) for score in part.values()]
        for score in (*self.clean.values(), *scores):
            if not all(math.isfinite(value) for value in (score.value, score.low, score.high) if value is not None):
                raise ValueError("a score that is not finite")
        if "accuracy" not in self.clean or any(
            {*row.scores} != {*self.clean} or {*row.changes} != {*self.clean} for row in self.rows
        ):
            raise ValueError("rows without the same scores")

    @property
    def worst_first(self) -> list[Changed]:
        """The rows, those that cost most accuracy first."""
        return sorted(self.rows, key=lambda row: row.changes["accuracy"].value or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Robustness":
        """Returns the record of a tree of `to_dict`. Raises TypeError or ValueError for another."""
        return typed(tree, cls, "robustness")


def read_robustness(run: RunDirectory, name: str) -> Robustness | None:
    """Returns the record of `eval/<name>-robustness.json`; None where there is none. Raises CheckpointError for a damaged one."""
    return run.read_record(Robustness, run.robustness(name))
