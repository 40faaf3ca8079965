"""One verb: train, from a config to a run directory with a summary.

The order within the loop is fixed: evaluate -> save -> next batch -> step -> log the step before. A checkpoint at step
k has seen exactly k updates, and its data iterator stands at position k.
"""

import contextlib
import dataclasses
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cnnjax import checkpoints as checkpoints_lib
from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import inference, metrics, models, runs, runtime
from cnnjax.errors import DataError, Stopped, TrainingError
from cnnjax.pages import plots, report, tables
from cnnjax.progress import Progress, counted
from cnnjax.training import feeds as pipeline
from cnnjax.training import state, steps
from cnnjax.training.early_stopping import SPENT, Early
from cnnjax.training.plan import Ahead

STOP, SAVE = 2, 1  # wishes of a process
PICTURES = 10  # seconds for which curves of a run under way may be old


def train(config, workdir: str | Path, *, progress: Progress | None = None,
          stop: Callable[[], bool] = lambda: False, saved: Callable[[], None] = lambda: None) -> dict:  # fmt: skip
    """Trains, or continues the run in `workdir`, or returns the summary of a finished one.

    Args:
        config: from `load_config`.
        workdir: the run directory; made when missing, never overwritten.
        progress: hears what happens; silent by default.
        stop: polled between steps; once true, everything is saved and `Stopped` is raised.
        saved: called, in another thread, whenever a checkpoint is whole.

    Returns:
        What `summary.json` holds: best_step, steps, epochs, stopped, seconds, images_per_second, parameters, and the
        numbers of train, val and test at the best step (None for a split without images).

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true; the same call continues.
    """
    main, workdir = runtime.is_main(), Path(workdir)
    progress = (main and progress) or Progress()
    with contextlib.ExitStack() as held:
        with runtime.all_or_none():
            directory = runs.RunDirectory(workdir)
            directory.check_apart(config)
            if main:
                directory.check_unused()
            ended = directory.finished(config)
            if main and not ended:
                held.enter_context(directory.locked())
        if not ended:
            advice = (f"use a smaller --config.data.batch_size (now {config.data.batch_size}), --config.train.accumulate "
                      "to share a batch among several passes, or --config.mesh.fsdp for more devices")  # fmt: skip
            held.enter_context(runtime.readable_shortage(advice))
            return _train(config, workdir, progress, stop, saved, main)
    if main and not (workdir / "report.html").exists():  # killed between the last number and the page
        report.write_report(workdir)
    done, trained = ended[0].to_dict(), ended[1]
    epochs, trained = counted(done["epochs"], "epoch"), trained["data"]["path"]
    progress.message(f"{workdir} is finished ({epochs}, best step {done['best_step']}); nothing to train")
    if trained != config.data.path:
        progress.warn(f"it was trained on {trained}, not on {config.data.path}; for that use another --workdir")
    return done


def _train(config, workdir: Path, progress: Progress, stop, saved, main: bool) -> dict:
    with runtime.all_or_none():
        data_lib.check_path(config.data)  # before anything is said
        mesh = runtime.mesh(config.runtime.devices, fsdp=config.mesh.fsdp, divides=config.data.batch_size)
        precision, wanted = state.precision(config), config.train.precision
        progress.message(f"{config.name} on {runtime.describe(mesh)}, kernels: {runtime.kernels(config)}")
        if precision != wanted:
            progress.warn(f"train.precision={wanted}, but a network with normalisation computes in {precision} where the kernels do: "
                          f"that is faster on a CPU; --config.runtime.kernels=xla computes in {wanted}")  # fmt: skip
        ahead = Ahead(config, mesh)
        data = data_lib.prepare(config, workdir, progress, freeze=main, stop=stop, decoding=ahead.compile)
        positive = _positive(config, data.classes)
    runtime.check_same("images or splits", data.labels, *data.splits.values())
    for name in data_lib.SPLITS:
        if len(data.splits[name]):
            progress.message(f"  {name:<6} {data.counts(name)}")
    with checkpoints_lib.Checkpoints(runs.RunDirectory(workdir), writable=True, saved=saved) as checkpoints:
        with runtime.all_or_none():
            run = _Run(config, workdir, data, positive, ahead, mesh, checkpoints, progress, stop)
        if main:
            runs.RunDirectory(workdir).claim(config)
        try:
            stopped = run.loop()
        finally:
            run.close()
        with run.early.clock("checkpoint"):
            checkpoints.wait()
        best = checkpoints.resolve_best(run.early.best_step, progress.warn)
        weights = checkpoints.load(best, {"model": run.network.abstract(mesh, ema=bool(config.train.ema_decay))})["model"]
    summary = run.summary("early" if stopped else "finished")
    summary["best_step"] = best
    summary["spent"]["augmentation"] = round(run.augmentation_seconds() * summary["steps"], 4)
    engine = inference.Engine(run.steps.logits, inference.evaluated(**weights), mesh)
    for name in data_lib.SPLITS:
        if len(data.splits[name]):
            if stop() and not runtime.is_distributed():
                run.stopped("while the best checkpoint was evaluated")
            result = inference.evaluate_split(
                engine, data, name, batch_size=config.data.batch_size, positive=run.positive, workdir=workdir,
                name=name, extra={"step": best}, progress=progress)  # fmt: skip
            summary[name] = metrics.summarized(result)
    if main:
        plots.save(plots.history(runs.RunDirectory(workdir).read_history(), best, config.name), workdir / "curves.png")
        runs.write_json(workdir / "summary.json", summary)
        report.write_report(workdir)
    runtime.wait_for_all("trained")
    return summary


class _Run:
    """A run under way: the loop and what it keeps."""

    def __init__(self, config, workdir: Path, data: data_lib.Dataset, positive: int, ahead: Ahead, mesh, checkpoints,
                 progress: Progress, stop):  # fmt: skip
        self.config, self.workdir, self.data, self.mesh = config, workdir, data, mesh
        self.checkpoints, self.progress, self.stop, self.ahead = checkpoints, progress, stop, ahead
        self.main = runtime.is_main()
        self.positive = positive
        plan = ahead.plan(len(data.classes), len(data.splits["train"]))
        self.batch_size, self.steps_per_epoch = plan.batch_size, plan.steps_per_epoch
        if self.batch_size < config.data.batch_size:
            progress.warn(f"data.batch_size={config.data.batch_size} is more than the {counted(plan.images, 'training image')}: "
                          f"each step takes {self.batch_size}")  # fmt: skip
        self.network, self.rate, self.steps = plan.network, plan.rate, plan.steps
        if idle := config_lib.idle(config):
            progress.message(f"  {config.model.name} has no use for {', '.join(idle)}, which the config sets")
        self.table = models.table(self.network.model, config.image.size)
        self.parameters = sum(row.parameters for row in self.table)
        self.augment = steps.compile_augmentation(config)
        self.whole = runtime.replicated(mesh)
        batches = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=self.batch_size,
                                        seed=config.seed, process_index=jax.process_index(),
                                        process_count=jax.process_count())  # fmt: skip
        if plan.resident:
            progress.message(f"  the training images lie on the device: {batches.nbytes / 1e6:,.0f} MB")
            self.feed = pipeline.DeviceFeed(batches, mesh, runtime.steps_at_once(mesh))
        else:
            self.feed = pipeline.HostFeed(batches, mesh)
        self.early = Early()
        self.saved = -1  # step of the newest checkpoint
        self.saved_at = time.monotonic()
        self.drawn_at = -math.inf
        self.every = config_lib.interval(config.train.checkpoint_every) or (0, math.inf)
        self.agreed = 0  # of several processes: the largest wish of any, one step late
        self.compiled = False
        self.epoch = {"seconds": 0.0, "images_per_second": 0.0}  # of the epoch that has just ended
        self._resume()
        checkpoints.check_room(self.state.trees())
        self.scale = float(self.state.scale)
        self.started = time.monotonic()
        if not self.main:
            self.history, self.events = runs.NoHistory(), runs.NoEvents()
            return
        directory = runs.RunDirectory(workdir)
        self.history = runs.History(directory.history, directory.metrics, self.step, averaged=bool(config.train.ema_decay))
        self.events = runs.open_events(directory.tensorboard, self.step, wanted=config.log.tensorboard)
        runs.write_json(workdir / "network.json", [dataclasses.asdict(row) for row in self.table])

    def _resume(self) -> None:
        restored = self.checkpoints.restore_newest(self.steps.abstract.trees(), self.progress.warn)
        if restored is None:
            self.state, self.step = self.steps.first(), 0
            if self.config.image.zca:
                self.progress.message("  fitting ZCA whitening to the training images")
                fitted = data_lib.fit_whitening(self.data.images, self.data.splits["train"], self.config.image.zca_epsilon)
                mean, matrix = runtime.from_main(fitted)  # or the last bits of hosts might differ
                fitted = {"whiten": {"mean": mean, "matrix": matrix}}
                fitted = jax.device_put(fitted, state.shardings(fitted, self.mesh))
                self.state = self.state.replace(stats={**self.state.stats, **fitted})
            return
        if restored.metadata["splits_sha256"] != data_lib.splits_digest(self.workdir / "splits.csv"):
            raise DataError(f"{self.workdir / 'splits.csv'} is not the split of the checkpoint at step {restored.step}; "
                            "restore it or use another --workdir")  # fmt: skip
        self.state, self.step = state.TrainState.of(restored.trees), restored.step
        self.feed.set_state({"next_index": restored.next_index})
        self.early = Early(**{k: math.inf if v is None else v for k, v in restored.metadata["early"].items()})
        self.saved = restored.step
        self.progress.message(f"continuing from step {restored.step}")

    def loop(self) -> bool:
        """Trains to the end; returns whether it stopped early."""
        progress, config = self.progress, self.config
        steps, epochs = counted(self.steps_per_epoch, "step"), counted(config.train.epochs, "epoch")
        progress.message(f"  {self.parameters:,} parameters, {steps} of {counted(self.batch_size, 'image')} per epoch, "
                         f"at most {epochs}")  # fmt: skip
        progress.message(tables.history_header())
        while True:
            if self.step % self.steps_per_epoch == 0 and self.step > self.early.evaluated:
                self._end_epoch()
            if config.train.patience and self.early.wait >= config.train.patience:
                return True
            if self.step >= config.train.epochs * self.steps_per_epoch:
                return False
            self._heed(None)
            self._train_epoch()

    def _train_epoch(self) -> None:
        """Steps to the end of the epoch, or to a stop request."""
        epoch = self.step // self.steps_per_epoch + 1
        end = epoch * self.steps_per_epoch
        # At once, while the device has nothing else to do: later it would be waited for.
        self.rates = np.asarray(jax.vmap(self.rate)(np.arange(end - self.steps_per_epoch, end)))
        pending = None  # (number of steps, last step, metrics) on the device
        start = clock = time.monotonic()
        counted = 0
        with self.progress.task(f"epoch {epoch}/{self.config.train.epochs}", (end - self.step) * self.batch_size, "images"
                                ) as advance:  # fmt: skip
            while self.step < end:
                pending = self._heed(pending)
                count = self._count(end)
                asked = time.monotonic()
                wish = (
                    {"wish": np.full(jax.local_device_count(), self._wish(), np.int32)} if runtime.is_distributed() else {}
                )
                batch = self.feed.take(count, **wish)
                # What the device did not wait for, because it was still busy, is no waiting.
                hidden = pending is not None and not pending[2]["loss"].is_ready()
                self.early.add("compile" if not self.compiled else "step" if hidden else "input", time.monotonic() - asked)
                with self.early.clock("step" if self.compiled else "compile"):
                    self.state, values = self.steps.train(self.state, batch, self.feed.resident)
                    self.step += count
                    if pending is not None:
                        images = pending[0] * self.batch_size
                        advance(images, self._log(*pending, counted / max(time.monotonic() - clock, 1e-9)))
                        counted += images
                if pending is not None and not self.compiled:
                    # The first step of a process waits for the compiler: speed counts from here.
                    self.compiled, clock, counted = True, time.monotonic(), 0
                    self.ahead.import_modules()
                pending = count, self.step, values
            with self.early.clock("step"):
                self._log(*pending, counted / max(time.monotonic() - clock, 1e-9))
                jax.block_until_ready(self.state.step)
        now = time.monotonic()
        counted += pending[0] * self.batch_size
        self.early.train_seconds += now - clock
        self.early.train_images += counted
        self.epoch = {"seconds": round(now - start, 3), "images_per_second": round(counted / (now - clock), 1)}

    def _count(self, end: int) -> int:
        """Steps of the next dispatch: to the end of the epoch or the next save at most."""
        every = self.every[0]
        return min(self.feed.most, end - self.step, every - self.step % every if every else end)

    def _log(self, count: int, last: int, values: dict, speed: float) -> str:
        """Fetches the metrics of steps, refuses numbers that are none, and returns a note for the progress line."""
        losses, accuracies, wishes = (np.atleast_1d(values.get(name, 0)) for name in ("loss", "accuracy", "wish"))
        self.agreed = int(wishes[0])
        for step, loss, accuracy in zip(
            range(last - count + 1, last + 1), losses.tolist(), accuracies.tolist(), strict=False
        ):
            self._log_step(step, loss, accuracy, speed)
        return f"step {step}  loss {loss:.4f}  accuracy {accuracy:.3f}  {speed:,.0f} images/s"

    def _log_step(self, step: int, loss: float, accuracy: float, speed: float) -> None:
        if not math.isfinite(loss):
            kept = f"the checkpoint at step {self.saved} is kept" if self.saved > 0 else "no checkpoint was saved yet"
            raise TrainingError(
                f"the loss is {loss} at step {step}; {kept}. Start again in another --workdir with a lower "
                f"--config.optimizer.learning_rate (now {self.config.optimizer.learning_rate:g}) or with "
                "--config.optimizer.clip_norm=1"
            )
        if step % self.config.log.every == 0:
            rate = float(f"{self.rates[(step - 1) % self.steps_per_epoch] * self.scale:.7g}")
            row = {
                "step": step,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": rate,
                "images_per_second": round(speed, 1),
            }
            self.history.log(row)
            self.events(row, "train")

    def _end_epoch(self) -> None:
        epoch = self.step // self.steps_per_epoch
        current = self.state
        val = self._validate(inference.evaluated(current.params, current.stats, current.ema), epoch)
        sums = {name: float(value) for name, value in self.state.sums.items()}
        self.early.update(self.step, val["loss"])
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": sums["loss"] / sums["count"],
            "accuracy": sums["correct"] / sums["count"],
            "val_loss": val["loss"],
            "val_accuracy": val["accuracy"],
            **self.epoch,
        }
        if current.ema:
            raw = self._validate({"params": current.params, "stats": current.stats}, epoch)
            row |= {"raw_val_loss": raw["loss"], "raw_val_accuracy": raw["accuracy"]}
        self.history.epoch(row)
        extra = {key: value for key, value in row.items() if key.startswith("raw_")}
        self.history.log(
            {"step": self.step, "epoch": epoch, **extra, **{f"val_{k}": v for k, v in val.items() if k != "images"}}
        )
        self.events({"step": self.step, **{k: v for k, v in val.items() if k != "images"}}, "val")
        self.progress.message(tables.history_row(row, self.config.train.epochs, best=self.early.best_step == self.step))
        optimizer = self.config.optimizer
        if optimizer.schedule == "plateau" and self.early.drop_wait > optimizer.plateau_patience:
            self.scale *= optimizer.decay_factor
            self.early.drop_wait = 0
            self.progress.message(
                f"  val_loss is on a plateau: learning rate {optimizer.learning_rate * self.scale:.3g} from here"
            )
        fresh = jax.device_put({"sums": state.no_sums(), "scale": np.float32(self.scale)}, self.whole)
        self.state = self.state.replace(**fresh)
        with self.early.clock("pictures"):
            if self.main and time.monotonic() - self.drawn_at > PICTURES:
                figure = plots.history(self.history.rows, self.early.best_step, self.config.name)
                plots.save(figure, self.workdir / "curves.png")
                if self.drawn_at == -math.inf:  # whatever network somebody has had described before
                    figure = plots.network(self.table, self.config.image.size, self.config.name)
                    plots.save(figure, self.workdir / "network.png", dpi=160)
                self.drawn_at = time.monotonic()
            self.events.image("augmented", self._first_images, self.step)
        self._save(val["loss"])

    def _validate(self, model: dict, epoch: int) -> dict:
        rows = self.data.splits["val"]
        engine = inference.Engine(self.steps.logits, model, self.mesh)
        with self.early.clock("evaluation"):
            logits = engine.logits_of_rows(self.data.images, rows, self.config.data.batch_size)
        if not np.isfinite(logits).all():
            raise TrainingError(f"val_loss is not a number after epoch {epoch}; start again in another --workdir with a lower "
                                "--config.optimizer.learning_rate")  # fmt: skip
        return metrics.headline(logits, self.data.labels[rows], self.positive)

    def _save(self, val_loss: float | None) -> None:
        now = time.monotonic()
        self.early.seconds += now - self.started
        self.started = now
        early = {k: None if v == math.inf else v for k, v in dataclasses.asdict(self.early).items()}
        metadata = {
            "config": json.loads(config_lib.to_json(self.config)),
            "classes": list(self.data.classes),
            "positive": self.positive,
            "preprocessing": checkpoints_lib.preprocessing(self.config),
            "splits_sha256": data_lib.splits_digest(self.workdir / "splits.csv"),
            "early": early,
        }
        with self.early.clock("checkpoint"):
            self.history.sync()
            next_index = int(self.feed.get_state()["next_index"])
            self.checkpoints.save(self.step, self.state.trees(), next_index, metadata, val_loss)
        self.saved, self.saved_at = self.step, time.monotonic()

    def _wish(self) -> int:
        """What this process wants before the next step: nothing, to save, or to stop."""
        if self.stop():
            return STOP
        steps, seconds = self.every
        due = (steps and self.step % steps == 0) or (self.main and time.monotonic() - self.saved_at > seconds)
        return SAVE if due and self.step > 0 else 0

    def _heed(self, pending: tuple | None) -> tuple | None:
        """Saves, or saves and stops, where that is wished for; several processes do so at the same step.

        Args:
            pending: step and metrics that are still to be logged, so that none is missing before a checkpoint.

        Returns:
            `pending`, or None where it was logged.
        """
        self.checkpoints.check_saved()
        wish = self.agreed if runtime.is_distributed() else self._wish()
        if not wish:
            return pending
        if pending is not None:
            self._log(*pending, 0.0)
        # Of several processes the same wish comes back with the steps that were already under way.
        if (
            self.step > self.saved + (2 * self.feed.most if wish == SAVE and runtime.is_distributed() else 0)
            and self.step > 0
        ):
            self._save(None)
        if wish == STOP:
            self.checkpoints.wait()
            self.stopped(f"at step {self.step}")
        return None

    def stopped(self, where: str) -> None:
        """Raises `Stopped` once everything is on disk."""
        if self.main:
            runs.write_json(self.workdir / "summary.json", self.summary("signal"))
        runtime.wait_for_all("stopped")
        raise Stopped(f"stopped {where}, everything is saved; the same command continues")

    def _first_images(self) -> np.ndarray:
        """Up to 16 images of the first batch as this step would augment them, side by side: uint8 [h, w, 3]."""
        batch = pipeline.TrainBatches(self.data.images, self.data.labels, self.data.splits["train"],
                                      batch_size=self.batch_size, seed=self.config.seed)[0]  # fmt: skip
        images, _ = self.augment(self.state.step, jax.device_put(batch, self.whole))
        images = np.asarray(images)[:16].round().astype(np.uint8)
        images = images[: 4 * (len(images) // 4)] if len(images) > 4 else images
        rows = [np.concatenate(images[i : i + 4], axis=1) for i in range(0, len(images), 4)]
        return np.concatenate(rows, axis=0)

    def augmentation_seconds(self) -> float:
        """Of one batch by itself, the median of five; 0 where nothing is switched on."""
        shape = (self.batch_size, *self.data.images.shape[1:])
        batch = {"image": np.zeros(shape, np.uint8), "label": np.zeros(self.batch_size, np.int32)}
        batch = pipeline.put(batch, runtime.batched(self.mesh))
        if jax.eval_shape(self.augment, self.state.step, batch)[0].dtype == np.uint8:
            return 0.0
        seconds = []
        for _ in range(6):
            start = time.monotonic()
            jax.block_until_ready(self.augment(self.state.step, batch))
            seconds.append(time.monotonic() - start)
        return statistics.median(seconds[1:])

    def summary(self, stopped: str) -> dict:
        """The content of `summary.json`, evaluation apart."""
        early = self.early
        return {
            "name": self.config.name,
            "best_step": early.best_step,
            "steps": self.step,
            "epochs": self.step // self.steps_per_epoch,
            "stopped": stopped,
            "seconds": round(early.seconds + time.monotonic() - self.started, 1),
            "images_per_second": round(early.train_images / max(early.train_seconds, 1e-9), 1),
            "parameters": self.parameters,
            "classes": list(self.data.classes),
            "devices": runtime.describe(self.mesh),
            "kernels": runtime.kernels(self.config),
            "precision": state.precision(self.config),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": checkpoints_lib.versions(),
            "revision": checkpoints_lib.revision(),
            "spent": {name: round(early.spent.get(name, 0.0), 2) for name in SPENT},
            "train": None,
            "val": None,
            "test": None,
        }

    def close(self) -> None:
        """Closes what is open."""
        self.history.close()
        self.events.close()


def _positive(config, classes: tuple[str, ...]) -> int:
    if len(classes) != 2:
        return -1
    if config.data.positive and config.data.positive not in classes:
        raise DataError(f"data.positive={config.data.positive!r} is not a class; use one of {', '.join(classes)}")
    return classes.index(config.data.positive) if config.data.positive else 1
