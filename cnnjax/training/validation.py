"""Validation of a network that is being trained."""

import jax
import numpy as np

from cnnjax import metrics
from cnnjax.data import Dataset
from cnnjax.errors import TrainingError
from cnnjax.inference import Engine, evaluated
from cnnjax.training.plan import Plan
from cnnjax.training.state import TrainState


class Validation:
    """Computes the numbers of the validation split.

    Args:
        data: images and splits.
        plan: whose compiled network computes the logits.
        mesh: its devices.
        batch_size: `data.batch_size`.
        positive: index of the positive class of two, else -1.
    """

    def __init__(self, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, batch_size: int, positive: int):
        self._images, self._rows = data.images, data.splits["val"]
        self._labels, self._positive = data.labels[self._rows], positive
        self._logits, self._mesh, self._batch_size = plan.steps.plain, mesh, batch_size

    def measure(self, state: TrainState) -> dict:
        """Returns name of a metric -> value, of the averaged parameters where there are some."""
        return self._numbers(evaluated(state.params, state.stats, state.ema), state.step)

    def measure_raw(self, state: TrainState) -> dict:
        """Returns the numbers of the parameters without averaging."""
        return self._numbers({"params": state.params, "stats": state.stats}, state.step)

    def _numbers(self, model: dict, step: jax.Array) -> dict:
        logits = Engine(self._logits, model, self._mesh).logits_of_rows(self._images, self._rows, self._batch_size)
        if not np.isfinite(logits).all():
            raise TrainingError(f"val_loss is not a number after step {int(step)}; start again in another --workdir with a lower "
                                "--config.optimizer.learning_rate")  # fmt: skip
        return metrics.headline(logits, self._labels, self._positive)
