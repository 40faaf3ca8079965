"""Checkpoints of a run: trees of arrays saved in the background, sealed by checksums, restored onto any mesh."""

from cnnjax.checkpoints.provenance import revision, versions
from cnnjax.checkpoints.records import Restored
from cnnjax.checkpoints.seals import DamagedError
from cnnjax.checkpoints.store import FORMAT, Checkpoints

__all__ = ["FORMAT", "Checkpoints", "DamagedError", "Restored", "revision", "versions"]
