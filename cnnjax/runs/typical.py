"""Statistics of the training images by which an image unlike them is known: `typical.json`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cnnjax.runs.directory import RunDirectory
from cnnjax.typed import typed

STATISTICS = 18  # numbers that describe an image
QUANTILE = 0.99  # of the validation images' distances, which is the threshold
CAUGHT = 0.5  # share of a probe from which on it counts as caught


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typical:
    """The distribution of the statistics of training images, and what it tells apart.

    Attributes:
        images: training images that were looked at.
        validation: validation images that were looked at.
        mean: of each of the statistics.
        covariance: the upper triangle of their covariance, row by row.
        threshold: squared Mahalanobis distance, the `QUANTILE` of those of validation images.
        caught: name of a probe, validation images that were changed or others in their place -> share above the threshold.
    """

    images: int
    validation: int
    mean: tuple[float, ...]
    covariance: tuple[float, ...]
    threshold: float
    caught: dict[str, float]

    def __post_init__(self):
        triangle = STATISTICS * (STATISTICS + 1) // 2
        if (len(self.mean), len(self.covariance)) != (STATISTICS, triangle):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.covariance)} covariances, not {STATISTICS} and {triangle}"
            )
        if self.validation < 1:
            raise ValueError("no validation images")
        if not all(map(math.isfinite, (*self.mean, *self.covariance))) or not 0 < self.threshold < math.inf:
            raise ValueError("numbers that are not finite, or a threshold that is not above 0")
        if not all(0 <= share <= 1 for share in self.caught.values()):
            raise ValueError("shares of probes that are not in [0, 1]")

    @property
    def can_tell(self) -> bool:
        """Tells whether at least half of the probes are caught; else a distance says nothing about an image."""
        return bool(self.caught) and 2 * len(self.found) >= len(self.caught)

    @property
    def usual(self) -> str:
        """The validation images above the threshold, in words: "8 of 760 validation images"."""
        return f"{self.validation - 1 - int(QUANTILE * (self.validation - 1))} of {self.validation:,} validation images"

    @property
    def found(self) -> list[str]:
        """Names of the probes that are caught."""
        return [name for name, share in self.caught.items() if share > CAUGHT]

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Typical":
        """Returns the record of a tree of `to_dict`. Raises TypeError or ValueError for another."""
        return typed(tree, cls, "typical")


def read_typical(run: RunDirectory) -> Typical | None:
    """Returns the record of `typical.json`; None where there is none. Raises CheckpointError for a damaged one."""
    return run.read_record(Typical, run.typical)
