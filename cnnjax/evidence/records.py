"""The evidence of an evaluation as a record: `eval/<name>-evidence.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from cnnjax.errors import CheckpointError
from cnnjax.metrics import Score
from cnnjax.runs import Record, RunDirectory
from cnnjax.typed import typed


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evidence(Record):
    """How sure the numbers of an evaluation are.

    Attributes:
        level: confidence of every interval.
        unit: what a group is in words, such as "patient"; "image" without groups.
        groups: number of groups.
        images: number of images.
        effective_groups: "images", of two classes also "positives" and "negatives" -> groups that count.
        prevalence: share of the positive class in use, as stated; 0: not stated.
        metrics: name of a metric -> its value with its interval.
        per_class: class -> "recall", "precision", "f1" and "auc" of it against all others; {} of more than a hundred classes.
        bootstrap: name of a metric -> low and high from groups drawn again; {} where nobody asked.
        calibration: how probabilities were calibrated and how far they are to be trusted.
        threshold: the threshold of two classes, and how sure it is.
        reliability: the diagram of probabilities, before and after calibration.
        groups_table: name of the table with a row for each group; "" without groups.
        spread: how the numbers differ between groups, of `metrics.spread`; {} without groups.
        group_auc: area under the ROC curve of whole groups; None without groups, and of more than two classes.
        subgroups: a row for each subgroup of the images.
        checks: sentences for readers of the numbers.
    """

    level: float
    unit: str
    groups: int
    images: int
    effective_groups: dict[str, float]
    prevalence: float = 0.0
    metrics: dict[str, Score]
    per_class: dict[str, dict[str, Score]] = dataclasses.field(default_factory=dict)
    bootstrap: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    threshold: dict[str, Any] = dataclasses.field(default_factory=dict)
    reliability: dict[str, Any] = dataclasses.field(default_factory=dict)
    groups_table: str = ""
    spread: dict[str, float | int | None] = dataclasses.field(default_factory=dict)
    group_auc: Score | None = None
    subgroups: tuple[dict[str, Any], ...] = ()
    checks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`. Raises TypeError or KeyError for another."""
        return typed(tree, cls, "evidence")

    @property
    def intervals(self) -> dict[str, list[float | None]]:
        """Name of a metric -> [low, high]; None for an end that is not given."""
        return {name: [score.low, score.high] for name, score in self.metrics.items()}


def read_evidence(run: RunDirectory, name: str) -> Evidence | None:
    """Returns the evidence of an evaluation; None where it was not written, as by an older version.

    Raises:
        CheckpointError: the file is damaged or was changed.
    """
    path = run.evidence(name)
    run.sealed.check(path)
    if not path.exists():
        return None
    try:
        return Evidence.from_dict(run.read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); write it anew with --mode=evidence --workdir={run}") from None
