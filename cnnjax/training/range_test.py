"""The learning rate range test (Smith 2017, arXiv:1506.01186): one short training whose rate rises until the loss does."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from cnnjax.data import Dataset
from cnnjax.errors import Stopped
from cnnjax.progress import Progress
from cnnjax.training.feeds import HostFeed, batches_of
from cnnjax.training.finetuning import tuned_optimizer
from cnnjax.training.imbalance import class_weights
from cnnjax.training.plan import Plan
from cnnjax.training.start import first_state
from cnnjax.training.steps import compile_steps

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 120  # a factor of 1.12 from each step to the next
WIDTH = 5  # steps over which losses are averaged
SPOILED = 4.0  # times the first loss: nothing is learned from there on


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """A range test.

    Attributes:
        rates: learning rate of each step, float64 [steps].
        losses: of each step's batch, before the step; float64 [steps].
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        """The losses, each averaged with its neighbours by a Gaussian of `WIDTH` steps: float64 [steps]."""
        losses = np.minimum(self.losses, 2 * self.losses[:10].mean())  # one bad step at the end is not the curve
        weights = np.exp(-0.5 * (np.arange(-3 * WIDTH, 3 * WIDTH + 1) / WIDTH) ** 2)
        own = slice(3 * WIDTH, 3 * WIDTH + len(losses))
        return np.convolve(losses, weights)[own] / np.convolve(np.ones(len(losses)), weights)[own]

    @property
    def suggested(self) -> float | None:
        """A quarter of the rate with the lowest loss, of two digits; None where no rate brings the loss down."""
        smooth = self.smooth
        lowest = int(smooth.argmin())
        if smooth[lowest] > 0.97 * self.losses[:10].mean():
            return None
        return float(f"{self.rates[lowest] / 4:.1e}")


def range_test(config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress, *, advance: Callable[[int], None] = lambda steps: None,
               stop: Callable[[], bool] = lambda: False) -> RangeTest:  # fmt: skip
    """Trains up to `STEPS` steps with rates from `LOWEST` to `HIGHEST`, each as many times the one before.

    Args:
        config: of a run; its schedule is not used.
        data: images and splits.
        plan: of the run.
        mesh: its devices.
        progress: hears with which weights it begins.
        advance: hears of each step.
        stop: polled between steps.

    Raises:
        Stopped: `stop` was true.
    """
    growth = math.log(HIGHEST / LOWEST) / (STEPS - 1)
    tx = tuned_optimizer(config, plan.network, lambda step: LOWEST * jax.numpy.exp(growth * step), plan.steps_per_epoch)
    steps = compile_steps(plan.network, tx, mesh, config)
    feed = HostFeed(batches_of(config, data, plan.batch_size, weights=class_weights(config, data)), mesh)
    state, losses = first_state(config, data, plan, mesh, progress), []
    while len(losses) < STEPS:
        if stop():
            raise Stopped("stopped before the learning rates were tried; the same command starts it again")
        state, values = steps.train(state, feed.take(1), None)
        losses.append(float(values["loss"]))
        advance(1)
        if not math.isfinite(losses[-1]) or min(losses[-3:]) > SPOILED * losses[0]:
            break
    finite = [loss for loss in losses if math.isfinite(loss)]
    return RangeTest(LOWEST * np.exp(growth * np.arange(len(finite))), np.array(finite))
