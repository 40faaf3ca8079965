"""What a run remembers from epoch to epoch: early stopping, and where its time went."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

# Where a run's time goes. "step" is what the loop waits for the device, augmentation included; "other" the rest.
SPENT = ("input", "compile", "step", "evaluation", "checkpoint", "pictures")


@dataclasses.dataclass
class Early:
    """What is remembered from epoch to epoch; saved with every checkpoint."""

    evaluated: int = 0  # step of the last evaluation
    best_loss: float = math.inf
    best_step: int = 0
    wait: int = 0  # epochs since best_step
    drop_wait: int = 0  # epochs since best_step or the last drop of the learning rate
    seconds: float = 0.0  # of wall clock, over all starts of the run
    train_seconds: float = 0.0  # of them in training steps, compilation apart
    train_images: int = 0  # seen in train_seconds
    spent: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds by what they were spent on; see `SPENT`

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to `spent`."""
        start = time.monotonic()
        yield
        self.add(name, time.monotonic() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds to `spent`."""
        self.spent[name] = self.spent.get(name, 0.0) + seconds

    def update(self, step: int, val_loss: float) -> None:
        """Takes in an evaluation."""
        self.evaluated = step
        self.wait += 1
        self.drop_wait += 1
        if val_loss < self.best_loss:
            self.best_loss, self.best_step, self.wait, self.drop_wait = val_loss, step, 0, 0
