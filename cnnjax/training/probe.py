"""The linear probe: a logistic regression of what a frozen network gives its last layer, which then is that layer."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from cnnjax import metrics, runs, runtime
from cnnjax.data import SPLITS, Dataset
from cnnjax.errors import ConfigError, DataError, TrainingError
from cnnjax.inference import Engine, compile_last, evaluated
from cnnjax.models import Layered, averages, shardings
from cnnjax.progress import Progress
from cnnjax.training.early_stopping import EarlyStopping, best_text, score_of
from cnnjax.training.features import Features
from cnnjax.training.imbalance import class_weights
from cnnjax.training.logistic import Head, Regression
from cnnjax.training.observer import Observer
from cnnjax.training.plan import Plan
from cnnjax.training.saver import Saver
from cnnjax.training.start import Start

PATIENCE = 2  # weaker penalties that bring neither a better score nor a lower loss, after which weaker ones are not tried


class NoFeed:
    """Stands in for a feed where no step takes batches."""

    def get_state(self) -> dict[str, int]:
        """Returns the position of a feed that was never asked."""
        return {"next_index": 0}

    def set_state(self, state: dict[str, int]) -> None:
        """Does nothing."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """The regression of one penalty.

    Attributes:
        row: of the history.
        numbers: name of a metric -> value on validation.
        head: the layer.
    """

    row: dict
    numbers: dict
    head: Head


def check_probe(config, plan: Plan, data: Dataset) -> None:
    """Checks that a network has a last layer that a logistic regression can be.

    Raises:
        ConfigError: it has not.
        DataError: all training images are of one class.
    """
    model, name = plan.network.model, config.model.name
    if type(model).__call__ is not Layered.__call__:
        raise ConfigError(f"train.method=probe: {name} does not apply its layers in turn, so what its last layer is given is not known; use "
                          "--config.train.method=gradient")  # fmt: skip
    last = model.layers[-1]
    if last.kind != "dense" or last.relu or getattr(model, last.module).bias is None:
        raise ConfigError(f"train.method=probe fits the last layer, which of {name} is {last.name}, not a dense layer with a bias and nothing "
                          "behind it; use --config.train.method=gradient")  # fmt: skip
    found = np.unique(data.labels[data.splits["train"]])
    if len(found) < 2:
        raise DataError(f"all training images are of the class {data.classes[found[0]]}; a probe needs two classes at least: use another "
                        "--config.split.seed, or more images")  # fmt: skip


class Probe:
    """Fits the last layer of a frozen network, with the face of `Loop`.

    Args:
        config: of the run.
        plan: compiled network.
        mesh: its devices.
        start: the network with the weights that stay as they are, or with a layer that was fitted before.
        data: images and splits.
        positive: index of the positive class of two, else -1.
        saver: saves the checkpoint.
        history: takes a row for each penalty.
        observer: hears of each penalty.
        progress: shows how far the features are.
        stop: polled while features are computed.

    Attributes:
        done: penalties tried, which are the steps of the run.
        stopping, stopwatch: the run's memory.
        logits: split -> float32 [images, outputs] of the layer that was chosen.
    """

    def __init__(self, config, plan: Plan, mesh: jax.sharding.Mesh, start: Start, data: Dataset, positive: int, saver: Saver,
                 history: runs.History | runs.NoHistory, observer: Observer, progress: Progress,
                 stop: Callable[[], bool]):  # fmt: skip
        self.done, self.stopping, self.stopwatch = start.stopping.evaluated, start.stopping, start.stopwatch
        self.logits: dict[str, np.ndarray] = {}
        self._config, self._plan, self._mesh, self._state, self._data = config, plan, mesh, start.state, data
        self._saver, self._history, self._observer, self._progress = saver, history, observer, progress
        self._positive, self._saved = positive, start.saved >= 0
        self._features = Features(config, plan, mesh, self._model(), data, progress, stop)

    def run(self) -> bool:
        """Computes the features, fits the layer and saves the network with it; returns False: no patience has ended the run.

        Raises:
            Stopped: on request; the features that are done are kept.
            TrainingError: a feature is not finite, or `train.monitor` is not defined.
        """
        self.stopwatch.start()
        with self.stopwatch.clock("step"):
            self._features.compute(self.stopwatch)
        self._observer.compiled()
        if not self._saved:
            head = None
            with runtime.all_or_none():
                if runtime.is_main():
                    self._observer.began()
                    with self.stopwatch.clock("step"), threadpool_limits(1):  # threads that share a core wait for each other
                        head = self._path()
                    with self.stopwatch.clock("pictures"):
                        self._observer.epoch_ended(self._history.rows, self.stopping.best_step)
            self._take(head)
        with self.stopwatch.clock("evaluation"):
            self._evaluate()
        return False

    def _path(self) -> Head:
        """Fits a layer for each penalty, from the strongest on; returns the best of them."""
        data, config = self._data, self._config
        rows, outputs, views = (
            data.splits["train"],
            self._plan.network.shapes[0][self._last]["bias"].shape[0],
            config.probe.views,
        )
        start = time.monotonic()
        shown = [self._features.of(rows, view) for view in range(views)]
        val = self._features.of(data.splits["val"])
        weights = class_weights(config, data)
        each = (np.ones(len(data.classes)) if weights is None else weights)[data.labels[rows]] / views
        regression = Regression(np.concatenate(shown), np.tile(data.labels[rows], views), outputs, np.tile(each, views))
        best, falling = None, EarlyStopping()
        penalties = sorted(set(config.probe.penalties), reverse=True)
        for penalty in penalties:
            head, passes = regression.fit(penalty)
            fit = self._judged(penalty, head, shown[0], val)
            seconds, start = time.monotonic() - start, time.monotonic()
            fit.row.update(seconds=round(seconds, 3), images_per_second=round(passes * len(rows) * views / seconds, 1))
            self.done += 1
            self.stopping.update(self.done, score_of(config.train.monitor, fit.numbers, self.done))
            falling.update(self.done, fit.numbers["loss"])
            best = fit if self.stopping.best_step == self.done else best
            self._record(fit)
            if min(self.stopping.wait, falling.wait) >= PATIENCE:
                break
        self._say_chosen(best.row["penalty"], penalties)
        return best.head

    def _judged(self, penalty: float, head: Head, train: np.ndarray, val: np.ndarray) -> Fit:
        data = self._data
        known, numbers = (
            metrics.headline(head.logits(features), data.labels[data.splits[name]], self._positive)
            for name, features in (("train", train), ("val", val))
        )
        row = {"epoch": self.done + 1, "step": self.done + 1, "loss": known["loss"], "accuracy": known["accuracy"],
               "val_loss": numbers["loss"], "val_accuracy": numbers["accuracy"], "penalty": penalty}  # fmt: skip
        return Fit(row, numbers, head)

    def _record(self, fit: Fit) -> None:
        self._history.epoch(fit.row)
        measured = {name: value for name, value in fit.numbers.items() if name != "images"}
        self._history.log({"step": self.done, "epoch": self.done, "penalty": fit.row["penalty"],
                           **{f"val_{name}": value for name, value in measured.items()}})  # fmt: skip
        best = best_text(self._config.train.monitor) if self.stopping.best_step == self.done else ""
        self._observer.epoch_evaluated(fit.row, measured, best=best)

    def _say_chosen(self, penalty: float, penalties: list[float]) -> None:
        """Warns where a penalty outside of those that were asked for might be better."""
        if len(penalties) > 1 and penalty in (penalties[0], penalties[-1]):
            end, more = ("strongest", 10 * penalty) if penalty == penalties[0] else ("weakest", penalty / 10)
            self._progress.warn(f"the {end} of probe.penalties is the best, {penalty:g}: one beyond it may be better, try "
                                f"--config.probe.penalties={','.join(f'{p:g}' for p in sorted({*penalties, more}, reverse=True))}")  # fmt: skip

    @property
    def _last(self) -> str:
        return self._plan.network.model.layers[-1].module

    def _model(self) -> dict:
        return evaluated(self._state.params, self._state.stats, {})

    def _take(self, head: Head | None) -> None:
        """Brings the layer of the main process into the network of all, and saves it."""
        shapes = self._plan.network.shapes[0][self._last]
        memory = np.zeros(3)
        if head is None:
            head = Head(*(np.zeros(shapes[name].shape, np.float32) for name in ("kernel", "bias")))
        else:
            memory[:] = self.done, self.stopping.best_step, self.stopping.best_score
        kernel, bias, memory = runtime.from_main((head.kernel, head.bias, memory))
        self.done = int(memory[0])
        self.stopping.evaluated, self.stopping.best_step, self.stopping.best_score = (
            self.done,
            int(memory[1]),
            float(memory[2]),
        )
        fitted = {"kernel": kernel, "bias": bias}
        fitted = jax.device_put(fitted, shardings(fitted, self._mesh))
        params = {**self._state.params, self._last: {**self._state.params[self._last], **fitted}}
        ema = (
            jax.tree.map(jnp.copy, averages(params, self._state.stats, self._config.train.ema_statistics))
            if self._state.ema
            else {}
        )
        self._state = self._state.replace(params=params, ema=ema)
        loss = next((row["val_loss"] for row in self._history.rows if row["step"] == self.stopping.best_step), 0.0)
        self._saver.save(self.stopping.best_step, self._state, {"val_loss": loss, "score": self.stopping.best_score})

    def _evaluate(self) -> None:
        """Computes the logits of every split from its features, by the network's own last layer."""
        engine = Engine(compile_last(self._plan.network, self._mesh), self._model(), self._mesh)
        for name in SPLITS:
            rows = self._data.splits[name]
            if len(rows):
                features = runtime.from_main(self._features.of(rows))
                self.logits[name] = engine.logits_of_rows(features, np.arange(len(rows)), self._config.data.batch_size)
        if not all(np.isfinite(found).all() for found in self.logits.values()):
            raise TrainingError(
                "the logits are not finite; use stronger penalties, as --config.probe.penalties=100000,10000"
            )
