"""Checkpoints of a run under way: when they are due, and what is remembered beside the arrays."""

import dataclasses
import math
import time
from collections.abc import Mapping

from cnnjax import runs, runtime
from cnnjax.checkpoints import Checkpoints
from cnnjax.config import interval
from cnnjax.training.early_stopping import EarlyStopping
from cnnjax.training.feeds import Feed
from cnnjax.training.state import TrainState
from cnnjax.training.stopwatch import Stopwatch


def remembered(stopping: EarlyStopping, stopwatch: Stopwatch) -> dict:
    """Returns a run's memory as the metadata "early" of a checkpoint; JSON has no infinity, which becomes None."""
    memory = {**dataclasses.asdict(stopping), **dataclasses.asdict(stopwatch)}
    return {name: None if value == math.inf else value for name, value in memory.items()}


def recalled(early: dict) -> tuple[EarlyStopping, Stopwatch]:
    """Returns the memory of `remembered`."""
    early = {name: math.inf if value is None else value for name, value in early.items()}
    if "best_loss" in early:  # of a version that knew no other score
        early["best_score"] = early.pop("best_loss")
    own = {field.name for field in dataclasses.fields(EarlyStopping)}
    stopping = {name: value for name, value in early.items() if name in own}
    return EarlyStopping(**stopping), Stopwatch(**{name: value for name, value in early.items() if name not in own})


class Saver:
    """Saves a run's checkpoints in the background.

    Args:
        checkpoints: where they go.
        feed: whose position is saved.
        history: on the disk before a checkpoint that will not log its rows again.
        metadata: what is the same in all checkpoints.
        stopping, stopwatch: the run's memory.
        every: "10 min" or "500 steps" between saves within an epoch, or "epoch".

    Attributes:
        saved: step of the newest checkpoint; -1 where there is none.
    """

    def __init__(self, checkpoints: Checkpoints, feed: Feed, history: runs.History | runs.NoHistory, metadata: dict,
                 stopping: EarlyStopping, stopwatch: Stopwatch, every: str, saved: int = -1):  # fmt: skip
        self._checkpoints, self._feed, self._history = checkpoints, feed, history
        self._metadata, self._stopping, self._stopwatch = metadata, stopping, stopwatch
        self._steps, self._seconds = interval(every) or (0, math.inf)
        self._saved_at, self.saved = time.monotonic(), saved

    def save(self, step: int, state: TrainState, scores: Mapping[str, float] | None = None) -> None:
        """Starts to save the state after `step` updates; scores are those of an epoch's end."""
        self._stopwatch.stop_lap()
        metadata = {**self._metadata, "early": remembered(self._stopping, self._stopwatch)}
        with self._stopwatch.clock("checkpoint"):
            self._history.sync()
            position = int(self._feed.get_state()["next_index"])
            self._checkpoints.save(step, state.trees(), position, metadata, scores)
        self._saved_at, self.saved = time.monotonic(), step

    def check(self) -> None:
        """Raises CheckpointError where the save under way has failed; does not wait."""
        self._checkpoints.check_saved()

    def wait(self) -> None:
        """Waits until the newest checkpoint is on the disk."""
        self._checkpoints.wait()

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint is due before the next step. Seconds are counted by the main process alone."""
        if step == 0:
            return False
        late = runtime.is_main() and time.monotonic() - self._saved_at > self._seconds
        return late or (self._steps > 0 and step % self._steps == 0)

    def steps_until_due(self, step: int) -> float:
        """Returns the number of steps after `step` until a checkpoint is due by their number."""
        return self._steps - step % self._steps if self._steps else math.inf
