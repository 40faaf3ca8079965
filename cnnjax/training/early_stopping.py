"""Patience: when training stops, and when the learning rate drops, because `train.monitor` gets no better."""

import dataclasses
import math
from collections.abc import Mapping

from cnnjax.config import LAST
from cnnjax.errors import ConfigError, TrainingError
from cnnjax.metrics import METRICS

LONG = 8  # steps
MONITORS = (
    *(f"val_{name}" for name, metric in METRICS.items() if metric.each_epoch and metric.higher_is_better is not None),
    LAST,
)


def score_of(monitor: str, numbers: Mapping[str, float | None], step: int) -> float:
    """Returns what patience compares, the lower the better: a number of `MONITORS`, with its sign changed where more is better.

    Args:
        monitor: one of `MONITORS`.
        numbers: name of a metric -> value on validation.
        step: of the evaluation.

    Raises:
        TrainingError: the number is not defined, as AUC without images of either class.
    """
    if monitor == LAST:
        return -float(step)
    name = monitor.removeprefix("val_")
    value = numbers.get(name)
    if value is None:
        defined = ", ".join(f"val_{key}" for key, found in numbers.items() if found is not None and f"val_{key}" in MONITORS)
        raise TrainingError(f"train.monitor={monitor} is not defined for these validation images; use one of {defined}")
    return -value if METRICS[name].higher_is_better else value


def epochs_of(patience: int, steps_per_epoch: int) -> int:
    """Returns patience in epochs where these are short: each is meant to have `LONG` steps at least.

    With 2 steps in an epoch, as of 60 images, a patience of 10 epochs would end a run before it has learned anything.
    """
    return math.ceil(patience * max(LONG / steps_per_epoch, 1))


def check_monitor(monitor: str, classes: int) -> None:
    """Raises ConfigError for a monitor that a task of so many classes has not."""
    if monitor != LAST and not METRICS[monitor.removeprefix("val_")].needs(classes):
        fit = ", ".join(name for name in MONITORS if name == LAST or METRICS[name.removeprefix("val_")].needs(classes))
        raise ConfigError(f"train.monitor={monitor}: not with {classes} classes; use one of {fit}")


def best_text(monitor: str) -> str:
    """Returns what the best epoch has: "lowest val_loss"; "" where that is the last one."""
    if monitor == LAST:
        return ""
    return f"{'highest' if METRICS[monitor.removeprefix('val_')].higher_is_better else 'lowest'} {monitor}"


@dataclasses.dataclass
class EarlyStopping:
    """Remembers the best epoch; saved with every checkpoint.

    Attributes:
        evaluated: step of the last evaluation.
        best_score: lowest score, of `score_of`.
        best_step: its step; the first of equals.
        wait: epochs since `best_step`.
        drop_wait: epochs since `best_step` or the last drop of the learning rate.
    """

    evaluated: int = 0
    best_score: float = math.inf
    best_step: int = 0
    wait: int = 0
    drop_wait: int = 0

    def update(self, step: int, score: float, epochs: int = 1) -> None:
        """Takes in the evaluation of an epoch, so many after the last one."""
        self.evaluated = step
        self.wait += epochs
        self.drop_wait += epochs
        if score < self.best_score:
            self.best_score, self.best_step, self.wait, self.drop_wait = score, step, 0, 0

    def is_spent(self, patience: int) -> bool:
        """Returns whether `patience` epochs brought nothing better. A patience of 0 has no end."""
        return patience > 0 and self.wait >= patience

    def drop(self, patience: int) -> bool:
        """Returns whether the learning rate drops now: after more than `patience` epochs on a plateau."""
        if self.drop_wait <= patience:
            return False
        self.drop_wait = 0
        return True
