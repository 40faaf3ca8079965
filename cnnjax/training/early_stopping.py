"""Patience: when training stops, and when the learning rate drops, because val_loss falls no more."""

import dataclasses
import math


@dataclasses.dataclass
class EarlyStopping:
    """Remembers the best epoch; saved with every checkpoint.

    Attributes:
        evaluated: step of the last evaluation.
        best_loss: lowest val_loss.
        best_step: its step; the first of equals.
        wait: epochs since `best_step`.
        drop_wait: epochs since `best_step` or the last drop of the learning rate.
    """

    evaluated: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    wait: int = 0
    drop_wait: int = 0

    def update(self, step: int, val_loss: float) -> None:
        """Takes in the evaluation of an epoch."""
        self.evaluated = step
        self.wait += 1
        self.drop_wait += 1
        if val_loss < self.best_loss:
            self.best_loss, self.best_step, self.wait, self.drop_wait = val_loss, step, 0, 0

    def is_spent(self, patience: int) -> bool:
        """Returns whether `patience` epochs brought no lower val_loss. A patience of 0 has no end."""
        return patience > 0 and self.wait >= patience

    def drop(self, patience: int) -> bool:
        """Returns whether the learning rate drops now: after more than `patience` epochs on a plateau."""
        if self.drop_wait <= patience:
            return False
        self.drop_wait = 0
        return True
