"""Validation of a network that is being trained."""

from collections.abc import Callable

import jax
import numpy as np

from cnnjax import metrics
from cnnjax.data import Dataset
from cnnjax.errors import TrainingError
from cnnjax.inference import Engine, Stored, evaluated, stored_bytes
from cnnjax.progress import Progress
from cnnjax.training.plan import Plan
from cnnjax.training.state import TrainState


class Validation:
    """Computes the numbers of the validation split.

    Args:
        labels: of its images, int32 [n].
        positive: index of the positive class of two, else -1.
        logits: {"params", "stats"} -> their logits, float32 [n, outputs].
    """

    def __init__(self, labels: np.ndarray, positive: int, logits: Callable[[dict], np.ndarray]):
        self._labels, self._positive, self._logits = labels, positive, logits

    def measure(self, state: TrainState) -> dict:
        """Returns name of a metric -> value, of the averaged parameters where there are some."""
        return self._numbers(evaluated(state.params, state.stats, state.ema), state.step)

    def measure_raw(self, state: TrainState) -> dict:
        """Returns the numbers of the parameters without averaging."""
        return self._numbers({"params": state.params, "stats": state.stats}, state.step)

    def _numbers(self, model: dict, step: jax.Array) -> dict:
        logits = self._logits(model)
        if not np.isfinite(logits).all():
            raise TrainingError(f"val_loss is not a number after step {int(step)}; start again in another --workdir with a lower "
                                "--config.optimizer.learning_rate")  # fmt: skip
        return metrics.headline(logits, self._labels, self._positive)


def open_validation(
    data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, batch_size: int, positive: int, progress: Progress
) -> Validation:
    """Returns the validation of a run. Its images are stored on the devices where the training images are and they fit as well.

    Args:
        data: images and splits.
        plan: whose compiled network computes the logits.
        mesh: its devices.
        batch_size: `data.batch_size`.
        positive: index of the positive class of two, else -1.
        progress: hears where the images are stored.
    """
    rows = data.splits["val"]
    size = stored_bytes(len(rows), data.images.shape[1:3], batch_size, mesh)
    if plan.resident and size < plan.free_image_bytes:
        progress.message(f"  the validation images are stored there too: {size / 1e6:,.0f} MB on each device")
        stored = Stored(data.images, rows, batch_size, mesh)
        return Validation(data.labels[rows], positive, lambda model: stored.logits(plan.steps.stored, model))
    return Validation(data.labels[rows], positive,
                      lambda model: Engine(plan.steps.plain, model, mesh).logits_of_rows(data.images, rows, batch_size))  # fmt: skip
