"""The log of steps: read one dispatch late, so that the devices always have work."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from cnnjax import runs
from cnnjax.errors import TrainingError
from cnnjax.training.observer import Observer
from cnnjax.training.requests import Requests
from cnnjax.training.stopwatch import Meter


@dataclasses.dataclass(frozen=True)
class Dispatched:
    """Updates that the devices are at work on.

    Attributes:
        count: how many.
        last: step of the last.
        values: {"loss", "accuracy"} on the devices, each float32 [] or [most].
        request: what `Requests.send` gave.
    """

    count: int
    last: int
    values: dict[str, jax.Array]
    request: jax.Array | None


class StepLog:
    """Logs updates one dispatch late.

    Args:
        history: takes a row of every `every`-th step.
        observer: hears of these rows.
        requests: takes in what came with the metrics.
        every: steps between rows.
        batch_size: images of a step.
        advice: returns the rest of the error for a loss that is not finite.
    """

    def __init__(self, history: runs.History | runs.NoHistory, observer: Observer, requests: Requests, *, every: int,
                 batch_size: int, advice: Callable[[], str]):  # fmt: skip
        self._history, self._observer, self._requests = history, observer, requests
        self._every, self._batch_size, self._advice = every, batch_size, advice
        self._pending: Dispatched | None = None

    def begin_epoch(self, rates: np.ndarray, advance: Callable[..., None]) -> None:
        """Starts an epoch.

        Args:
            rates: learning rates of its steps, float32 [steps].
            advance: hears of images and a note.
        """
        self._rates, self._advance, self.meter = rates, advance, Meter()

    def is_waiting(self) -> bool:
        """Returns whether the devices are still at work on the updates that are logged next."""
        return self._pending is not None and not self._pending.values["loss"].is_ready()

    def log(self, dispatched: Dispatched) -> bool:
        """Logs the updates before these; returns whether there were any."""
        before = self.flush()
        self._pending = dispatched
        return before

    def flush(self) -> bool:
        """Logs what is pending, and waits for it; returns whether there was anything. Raises TrainingError for a loss that is not finite."""
        done, self._pending = self._pending, None
        if done is None:
            return False
        values = jax.device_get(done.values)
        losses, accuracies = (np.atleast_1d(values[name])[: done.count].tolist() for name in ("loss", "accuracy"))
        self._requests.receive(done.request)
        speed = self.meter.speed()
        for step, loss, accuracy in zip(range(done.last - done.count + 1, done.last + 1), losses, accuracies, strict=True):
            self._log_step(step, loss, accuracy, speed)
        images = done.count * self._batch_size
        self.meter.images += images
        self._advance(
            images, f"step {done.last}  loss {losses[-1]:.4f}  accuracy {accuracies[-1]:.3f}  {speed:,.0f} images/s"
        )
        return True

    def _log_step(self, step: int, loss: float, accuracy: float, speed: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}; {self._advice()}")
        if step % self._every == 0:
            rate = float(f"{self._rates[(step - 1) % len(self._rates)]:.7g}")
            row = {
                "step": step,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": rate,
                "images_per_second": round(speed, 1),
            }
            self._history.log(row)
            self._observer.step_logged(row)
