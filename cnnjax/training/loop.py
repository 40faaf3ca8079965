"""The loop: evaluate, save, next, step, log.

The order is fixed. A checkpoint at step k has seen exactly k updates, and its data iterator is at position k. The metrics of
a step are read after the next one is dispatched, so that the devices always have work.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax
import numpy as np

from cnnjax import runs, runtime
from cnnjax.errors import Stopped
from cnnjax.progress import Progress
from cnnjax.training.early_stopping import best_text, epochs_of, score_of
from cnnjax.training.epochs import epochs_between
from cnnjax.training.feeds import Feed
from cnnjax.training.observer import Observer
from cnnjax.training.plan import Plan
from cnnjax.training.requests import Request, open_requests
from cnnjax.training.saver import Saver
from cnnjax.training.start import Start
from cnnjax.training.state import no_sums
from cnnjax.training.step_log import Dispatched, StepLog
from cnnjax.training.validation import Validation


class Loop:
    """Trains a network from its start to its end.

    Args:
        config: of the run.
        plan: compiled steps, learning rates and numbers of the run.
        mesh: its devices.
        start: state, step and memory.
        feed: of the training images, at the position of the start.
        validation: computes the numbers of an epoch.
        saver: saves checkpoints.
        history: takes rows of epochs and steps.
        observer: hears what happens.
        progress: shows how far an epoch is.
        stop: polled between steps; once true, everything is saved and `Stopped` is raised.

    Attributes:
        done: updates done.
        stopping, stopwatch: the run's memory.
        logits: of splits, as far as training has computed those of the best epoch.
    """

    logits: Mapping[str, np.ndarray] = MappingProxyType({})

    def __init__(self, config, plan: Plan, mesh: jax.sharding.Mesh, start: Start, feed: Feed, validation: Validation,
                 saver: Saver, history: runs.History | runs.NoHistory, observer: Observer, progress: Progress, stop):  # fmt: skip
        self.done, self.stopping, self.stopwatch = start.step, start.stopping, start.stopwatch
        self._state, self._scale = start.state, float(start.state.scale)
        self._plan, self._whole, self._feed = plan, runtime.replicated(mesh), feed
        self._rates = jax.jit(jax.vmap(plan.rate))
        self._optimizer, self._train = config.optimizer, config.train
        self._end = config.train.epochs * plan.steps_per_epoch
        self._every = epochs_between(config.train)
        self._patience = epochs_of(config.train.patience, plan.steps_per_epoch)
        self._plateau = epochs_of(config.optimizer.plateau_patience, plan.steps_per_epoch)
        self._validation, self._saver, self._history = validation, saver, history
        self._observer, self._progress, self._stop = observer, progress, stop
        self._requests = open_requests(self._own_request, mesh, feed.most)
        self._steps = StepLog(history, observer, self._requests, every=config.log.every, batch_size=plan.batch_size,
                              advice=self._advice)  # fmt: skip
        self._is_compiled = False
        self._epoch_speed = {"seconds": 0.0, "images_per_second": 0.0}

    def run(self) -> bool:
        """Trains to the end; returns whether patience ended it.

        Raises:
            Stopped: on request, once everything is saved.
            TrainingError: a loss is not finite.
        """
        self.stopwatch.start()
        self._observer.began()
        while True:
            self.evaluate()
            if self.done in {phase.end for phase, _ in self._plan.steps.phases}:
                self._begin_phase()
            if self.done >= self._plan.steps.until and self.stopping.is_spent(self._patience):
                return True
            if self.done >= self._end:
                return False
            with self._epoch() as end:
                while self.done < end:
                    self.save()
                    batch, count = self.next(end)
                    dispatched = self.step(batch, count)
                    self.log(dispatched)

    def evaluate(self) -> None:
        """Evaluates an epoch that has ended, where it is its turn, writes it to the history, and saves it."""
        epoch, rest = divmod(self.done, self._plan.steps_per_epoch)
        its_turn = epoch % self._every == 0 or self.done == self._end
        if rest or not its_turn or self.done <= self.stopping.evaluated:
            return
        epochs = epoch - self.stopping.evaluated // self._plan.steps_per_epoch
        with self.stopwatch.clock("evaluation"):
            numbers = self._validation.measure(self._state)
            raw = self._validation.measure_raw(self._state) if self._state.ema else None
        score = score_of(self._train.monitor, numbers, self.done)
        self.stopping.update(self.done, score, epochs)
        self._record(numbers, raw)
        self._drop_rate()
        fresh = jax.device_put({"sums": no_sums(), "scale": np.float32(self._scale)}, self._whole)
        self._state = self._state.replace(**fresh)
        with self.stopwatch.clock("pictures"):
            self._observer.epoch_ended(self._history.rows, self.stopping.best_step)
        self._saver.save(self.done, self._state, {"val_loss": numbers["loss"], "score": score})

    def save(self) -> None:
        """Saves where a request asks for it, and raises `Stopped` where one asks for that."""
        self._saver.check()
        request = self._requests.heard()
        if request == Request.NONE:
            return
        self._steps.flush()  # no row is missing before a checkpoint
        # The same request to save comes back with the steps that were under way.
        lag = self._requests.lag if request == Request.SAVE else 0
        if self.done > max(self._saver.saved + lag, 0):
            self._saver.save(self.done, self._state)
        if request == Request.STOP:
            self._saver.wait()
            raise Stopped(f"stopped at step {self.done}, everything is saved; the same command continues")

    def next(self, end: int) -> tuple[dict, int]:
        """Takes the batches of the next dispatch; returns them and their number: to the next save or the end of the epoch at most."""
        count = min(self._feed.most, end - self.done, self._saver.steps_until_due(self.done))
        start = time.monotonic()
        batch = self._feed.take(count)
        # While the devices are busy they do not wait for images.
        kind = "input" if self._is_compiled and not self._steps.is_waiting() else self._kind()
        self.stopwatch.add(kind, time.monotonic() - start)
        return batch, count

    def step(self, batch: dict, count: int) -> Dispatched:
        """Dispatches `count` updates."""
        with self.stopwatch.clock(self._kind()):
            request = self._requests.send()
            _, program = self._plan.steps.at(self.done)
            self._state, values = program(self._state, batch, self._feed.resident)
            self.done += count
            return Dispatched(count, self.done, values, request)

    def log(self, dispatched: Dispatched) -> None:
        """Logs the updates before these."""
        with self.stopwatch.clock(self._kind()):
            first = self._steps.log(dispatched) and not self._is_compiled
        if first:
            self._is_compiled = True
            self._steps.meter.restart()
            self._observer.compiled()

    def _kind(self) -> str:
        """The kind of work that waiting for the devices is: the first update of a process waits for the compiler."""
        return "step" if self._is_compiled else "compile"

    @contextlib.contextmanager
    def _epoch(self) -> Iterator[int]:
        """Surrounds the steps of an epoch; gives the step at its end."""
        length, epochs = self._plan.steps_per_epoch, self._train.epochs
        epoch = self.done // length + 1
        end = epoch * length
        # Before the devices have work, which this would wait for.
        rates = jax.device_get(self._rates(np.arange(end - length, end))) * np.float32(self._scale)
        images = (end - self.done) * self._plan.batch_size
        with self._progress.task(f"epoch {epoch}/{epochs}", images, "images") as advance:
            self._steps.begin_epoch(rates, advance)
            yield end
            with self.stopwatch.clock("step"):
                self._steps.flush()
        self._epoch_speed = self._steps.meter.finish(self.stopwatch)

    def _own_request(self) -> Request:
        """This process's request before the next step."""
        if self._stop():
            return Request.STOP
        return Request.SAVE if self._saver.is_due(self.done) else Request.NONE

    def _record(self, numbers: dict, raw: dict | None) -> None:
        """Writes an epoch to the history."""
        epoch, sums = self.done // self._plan.steps_per_epoch, jax.device_get(self._state.sums)
        row = {
            "epoch": epoch,
            "step": self.done,
            "loss": float(sums["loss"]) / float(sums["count"]),
            "accuracy": float(sums["correct"]) / float(sums["count"]),
            "val_loss": numbers["loss"],
            "val_accuracy": numbers["accuracy"],
            **self._epoch_speed,
        }
        extra = {f"raw_val_{name}": raw[name] for name in ("loss", "accuracy")} if raw else {}
        measured = {name: value for name, value in numbers.items() if name != "images"}
        self._history.epoch(row | extra)
        self._history.log({"step": self.done, "epoch": epoch, **extra, **{f"val_{k}": v for k, v in measured.items()}})
        self._observer.epoch_evaluated(
            row | extra, measured, best=best_text(self._train.monitor) if self.stopping.best_step == self.done else ""
        )

    def _begin_phase(self) -> None:
        """Goes on with another program: for images of another size, or one that trains all parameters, with all of the patience."""
        self._is_compiled = False
        (before, _), (after, _) = (self._plan.steps.at(step) for step in (self.done - 1, self.done))
        if before.shape != after.shape:
            self._progress.message(f"  images of {'x'.join(map(str, after.shape))} pixels from here (train.scales)")
        if self.done == self._plan.steps.until:
            self.stopping.wait = 0
            self._progress.message(f"  all layers are trained from here (train.unfreeze_epoch={self._train.unfreeze_epoch})")

    def _drop_rate(self) -> None:
        """Lowers the learning rate where `train.monitor` is on a plateau."""
        section = self._optimizer
        if section.schedule == "plateau" and self.stopping.drop(self._plateau):
            self._scale *= section.decay_factor
            rate = section.learning_rate * self._scale
            self._progress.message(f"  {self._train.monitor} is on a plateau: learning rate {rate:.3g} from here")

    def _advice(self) -> str:
        """The rest of the error for a loss that is not finite."""
        saved = self._saver.saved
        kept = f"the checkpoint at step {saved} is kept" if saved > 0 else "no checkpoint was saved yet"
        return (f"{kept}. Start again in another --workdir with a lower --config.optimizer.learning_rate "
                f"(now {self._optimizer.learning_rate:g}) or with --config.optimizer.clip_norm=1")  # fmt: skip
