"""The directories that checkpoints need of a run, and a checkpoint brought back."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol


class Places(Protocol):
    """Directories of a run; `runs.RunDirectory` is one.

    Attributes:
        path: the run.
        checkpoints: a directory per step.
        checksums: a file per checkpoint.
        damaged: where damaged checkpoints are moved.
    """

    path: Path
    checkpoints: Path
    checksums: Path
    damaged: Path


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint brought back.

    Attributes:
        step: of the checkpoint.
        trees: name -> tree of arrays, as they were saved.
        next_index: of the next batch.
        metadata: what was saved beside the arrays.
    """

    step: int
    trees: dict[str, Any]
    next_index: int
    metadata: dict
