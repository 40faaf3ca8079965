"""One verb: train, from a config to a run directory with a summary and a report."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cnnjax import audit, evidence, inference, metrics, models, pages, runs, runtime, training
from cnnjax import checkpoints as checkpoints_lib
from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress, counted

PICTURES = 30  # seconds for which curves of a run under way may be old
SLOW = ("sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg")  # to import: two seconds


def train(config, workdir: str | Path, *, progress: Progress | None = None,
          stop: Callable[[], bool] = lambda: False, saved: Callable[[], None] = lambda: None) -> inference.Run:  # fmt: skip
    """Trains, or continues the run in `workdir`, or returns the summary of a finished one.

    Args:
        config: from `load_config`.
        workdir: the run directory; made when missing, never overwritten.
        progress: hears what happens; silent by default.
        stop: polled between steps; once true, everything is saved and `Stopped` is raised.
        saved: called, in another thread, whenever a checkpoint is whole.

    Returns:
        The run: its history, and its summary with best_step, steps, epochs, stopped, seconds, images_per_second, parameters,
        and the numbers of train, val and test at the best step (None for a split without images).

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true; the same call continues.
    """
    runtime.set_up(config)
    config_lib.remember(config)
    main, run = runtime.is_main(), runs.RunDirectory(workdir)
    progress = (main and progress) or Progress()
    config = training.with_weights(config, run, progress)
    config = training.with_batch_size(training.with_kept(config, run), run, progress)
    with contextlib.ExitStack() as held:
        with runtime.all_or_none():
            run.check_apart(config)
            runs.check_single(run)
            if main:
                run.check_unused()
            ended = run.finished(config)
            if main and not ended:
                held.enter_context(run.locked())
        if not ended:
            advice = (f"use a smaller --config.data.batch_size (now {config.data.batch_size}), --config.train.accumulate "
                      "to share a batch among several passes, or --config.mesh.fsdp for more devices")  # fmt: skip
            held.enter_context(runtime.readable_shortage(advice))
            return inference.Run(run.path, _Training(config, run, progress, stop).train(saved))
    if ended[1]["data"]["path"] != config.data.path:
        _check_same_data(run, ended[1]["data"]["path"], config.data, progress)
    if main and not run.report.exists():  # killed between the last number and the page
        pages.write_report(run.path)
    summary, epochs = ended[0], counted(ended[0].epochs, "epoch")
    progress.message(f"{run} is finished ({epochs}, best step {summary.best_step}); nothing to train")
    if line := inference.unapplied(run, config.evidence):
        progress.warn(line)
    return inference.Run(run.path, summary)


def _check_same_data(run: runs.RunDirectory, trained: str, data: config_lib.Data, progress: Progress) -> None:
    """Raises DataError where a finished run would answer for other data than its own; the same data may have moved."""
    data_lib.check_path(data)
    with contextlib.suppress(DataError):
        found = set(data_lib.open_source(data, progress).examples.ids)
        run.sealed.check(run.splits)
        if run.splits.exists() and found.issuperset(data_lib.read_splits(run.splits).ids):
            return
    other = run.path.with_name(f"{run.path.name}-{Path(data.path).name or 'download'}")
    raise DataError(f"{run} is finished and was trained on {trained or data.url}, not on {data.path or data.url}; train on that with "
                    f"--workdir={other}, or evaluate the run where its data is now with --mode=eval --workdir={run} "
                    f"--config.data.path={data.path}")  # fmt: skip


class _Training:
    """One call of `train`: its devices, its data and its network, and the order of its parts."""

    def __init__(self, config, run: runs.RunDirectory, progress: Progress, stop: Callable[[], bool]):
        self.config, self.run, self.progress, self.stop = config, run, progress, stop
        self.main = runtime.is_main()
        with runtime.all_or_none():
            data_lib.check_path(config.data)  # before anything is said
            self.mesh = runtime.mesh(config.runtime.devices, fsdp=config.mesh.fsdp, divides=config.data.batch_size)
            self._describe()
            self.ahead = training.Ahead(config, self.mesh)
            self.data = data_lib.prepare(
                config, run.path, progress, freeze=self.main, stop=stop, decoding=self._begin_to_compile
            )
            self.config = config = self._counted()
            self.positive = _positive(config, self.data.classes)
            training.check_monitor(config.train.monitor, len(self.data.classes))
            inference.check_classes(config.evidence, len(self.data.classes))
            self.leaks: tuple[str, ...] = ()
            if self.main:
                self._look_for_leaks()
        runtime.check_same("images or splits", self.data.labels, *self.data.splits.values())
        for name in data_lib.SPLITS:
            if len(self.data.splits[name]):
                progress.message(f"  {name:<6} {self.data.counts(name)}")

    def _counted(self):
        """Returns the config with its number of epochs, which it may owe to that of the training images."""
        images = len(self.data.splits["train"])
        config = training.with_epochs(self.config, images)
        if self.config.train.auto_epochs and config.train.method == "gradient":
            epochs = counted(config.train.epochs, "epoch")
            self.progress.message(f"  train.epochs=auto: {epochs}, which show {config.train.epochs * images:,} images")
        return config

    def _look_for_leaks(self) -> None:
        """Warns of pictures on several sides of the split and under several labels. Raises DataError for a leak where `audit.stop` is set."""
        findings, note = audit.look(self.data, turns=self.config.audit.turns)
        if note:
            self.progress.message(f"  {note}")
        told = [finding.text for finding in findings if finding.kind != "groups"]  # of these, preparing has warned
        for line in told:
            self.progress.warn(line)
        leaks = "; ".join(finding.text for finding in findings if finding.is_leak)
        if leaks and self.config.audit.stop:
            raise DataError(f"{leaks}; audit.stop refuses to train, --config.audit.stop=False trains nevertheless")
        self.leaks = tuple(told)

    def _begin_to_compile(self, classes: int, images: int) -> None:
        """Compiles while images are decoded, which is not begun for a batch that has no room."""
        training.check_start(self.config, self.run, self.mesh, classes)  # before the decoding, if it is wrong
        if not runtime.is_distributed():  # the others may have nothing to decode; all of them check before they train
            training.check_fits(self.config, self.mesh, images)
        self.ahead.compile(classes, images)

    def train(self, saved: Callable[[], None]) -> runs.Summary:
        """Trains, evaluates the best checkpoint on every split, and writes the summary and the report."""
        config, run = self.config, self.run
        with checkpoints_lib.Checkpoints(run, writable=True, saved=saved, warn=self.progress.warn) as checkpoints:
            with contextlib.ExitStack() as held:
                with runtime.all_or_none():
                    loop = self._prepare(checkpoints, held)
                if self.main:
                    run.claim(config)
                try:
                    early = loop.run()
                except Stopped:
                    self._write_stopped(loop)
                    raise
            with loop.stopwatch.clock("checkpoint"):
                checkpoints.wait()
            best = checkpoints.resolve_best(loop.stopping.best_step, self.progress.warn)
            shapes = self.plan.network.abstract(
                self.mesh, ema=bool(config.train.ema_decay), statistics=config.train.ema_statistics
            )
            weights = checkpoints.load(best, {"model": shapes})["model"]
        summary = self._summary(loop, "early" if early else "finished")
        if config.train.method == "gradient":
            summary.spent["augmentation"] = round(self.showcase.seconds(loop.done) * loop.done, 4)
        engine = inference.Engine(self.plan.steps.logits, inference.evaluated(**weights), self.mesh, self.plan.network)
        summary = dataclasses.replace(summary, best_step=best, **self._evaluate(engine, best, loop))
        if self.main:
            summary = dataclasses.replace(summary, intervals=self._intervals(summary))
            pages.save_figure(pages.history_figure(run.read_history(), best, config.name), run.curves)
            inference.write_typical(run, self.data, self.progress)
            run.write_summary(summary)
            pages.write_report(run.path)
        runtime.wait_for_all("trained")
        return summary

    def _describe(self) -> None:
        """Says on what the run is trained."""
        config, wanted = self.config, self.config.train.precision
        ops = runtime.ops(config.runtime, runtime.platform_of(self.mesh))
        precision = models.precision(config, ops)
        self.progress.message(f"{config.name} on {runtime.describe(self.mesh)}, kernels: {ops.name}")
        if precision != wanted:
            self.progress.warn(f"train.precision={wanted}, but a network with normalisation computes in {precision} where the kernels do: "
                               f"that is faster on a CPU; --config.runtime.kernels=xla computes in {wanted}")  # fmt: skip

    def _prepare(
        self, checkpoints: checkpoints_lib.Checkpoints, held: contextlib.ExitStack
    ) -> training.Loop | training.Probe:
        """Returns the loop at its start; `held` closes what the loop writes to."""
        config, data, mesh, progress = self.config, self.data, self.mesh, self.progress
        self.plan = plan = self.ahead.plan(len(data.classes), len(data.splits["train"]))
        training.check_fits(config, mesh, plan.images)
        if probes := config.train.method == "probe":
            training.check_probe(config, plan, data)
        self._say_what_differs()
        table = models.table(plan.network.model, plan.tx.frozen)
        if large := models.oversized(table, config.image.size):
            self.progress.warn(large)
        self.parameters = sum(row.parameters for row in table)
        self.showcase = training.Showcase(config, data, plan.batch_size, mesh)
        feed = training.NoFeed() if probes else training.open_feed(config, data, plan, mesh, progress)
        start = training.find_start(config, data, plan, feed, mesh, checkpoints, self.run, progress)
        self.weights = start.weights
        checkpoints.check_room(start.state.trees())
        history, observer = runs.NoHistory(), training.Observer()
        if self.main:
            run = self.run
            more = runs.PENALTY if probes else runs.RAW if config.train.ema_decay else ()
            history = runs.History(run, start.stopping.evaluated if probes else start.step, more=more, warn=progress.warn)
            held.callback(history.close)
            events = runs.open_events(run.tensorboard, start.step, wanted=config.log.tensorboard)
            held.callback(events.close)
            run.write_json(run.network_table, [dataclasses.asdict(row) for row in table])
            observer = _Pictures(config, run, plan, table, self.showcase, events, progress, self.ahead)
        saver = training.Saver(checkpoints, feed, history, self._metadata(), start.stopping, start.stopwatch,
                               config.train.checkpoint_every, start.saved)  # fmt: skip
        if probes:
            return training.Probe(
                config, plan, mesh, start, data, self.positive, saver, history, observer, progress, self.stop
            )
        validation = training.open_validation(data, plan, mesh, config.data.batch_size, self.positive, progress)
        return training.Loop(config, plan, mesh, start, feed, validation, saver, history, observer, progress, self.stop)

    def _say_what_differs(self) -> None:
        """Says where the run is not what the config seems to ask for."""
        config, plan = self.config, self.plan
        if plan.batch_size < config.data.batch_size and config.train.method == "gradient":
            images = counted(plan.images, "training image")
            self.progress.warn(
                f"data.batch_size={config.data.batch_size} is more than the {images}: each step takes {plan.batch_size}"
            )
        patience = config.train.patience if config.train.monitor != config_lib.LAST else 0
        if config.train.method == "gradient" and (longer := training.epochs_of(patience, plan.steps_per_epoch)) > patience:
            steps = counted(plan.steps_per_epoch, "step")
            self.progress.message(f"  an epoch has {steps} only: train.patience={patience} is meant as {longer} epochs")
        for line in training.tuning_lines(config, plan.network, plan.tx):
            self.progress.message(f"  {line}")
        if idle := config_lib.idle(config):
            self.progress.message(f"  {config.model.name} has no use for {', '.join(idle)}, which the config sets")
        if idle := config_lib.idle(config, config_lib.unread(config)):
            self.progress.message(
                f"  train.method={config.train.method} has no use for {', '.join(idle)}, which the config sets"
            )

    def _metadata(self) -> dict:
        """Returns the metadata that all checkpoints of the run share."""
        return {
            "config": json.loads(config_lib.to_json(self.config)),
            "classes": list(self.data.classes),
            "positive": self.positive,
            "preprocessing": self.data.preprocessing.to_dict(),
            "splits_sha256": data_lib.splits_digest(self.run.splits),
            **({"weights": dataclasses.asdict(self.weights)} if self.weights else {}),
        }

    def _evaluate(self, engine: inference.Engine, step: int, loop: training.Loop | training.Probe) -> dict[str, dict]:
        """Calibrates on validation, then evaluates every split that has images; returns its numbers by its name."""
        config, found, judged = self.config, {}, "test" if len(self.data.splits["test"]) else "val"
        known = dict(loop.logits) or {
            "val": inference.split_logits(engine, self.data, "val", config.data.batch_size, self.progress)
        }
        share = training.supposed_share(config, self.data, self.positive)
        reading = inference.fit_reading(known["val"], self.data, evidence=config.evidence, positive=self.positive, share=share, step=step,
                                        digest=data_lib.splits_digest(self.run.splits), unit=evidence.unit_of(config.data))  # fmt: skip
        inference.write_reading(self.run, reading)
        for line in reading.lines(self.data.classes):
            self.progress.message(f"  {line}")
        for name in data_lib.SPLITS:
            if len(self.data.splits[name]):
                if self.stop() and not runtime.is_distributed():
                    self._write_stopped(loop)
                    raise Stopped(
                        "stopped while the best checkpoint was evaluated, everything is saved; the same command continues"
                    )
                result = inference.evaluate_split(
                    engine, self.data, name, batch_size=config.data.batch_size, reading=reading, run=self.run, name=name, step=step,
                    settings=config.evidence, progress=self.progress, logits=known.get(name), explain=name == judged)  # fmt: skip
                found[name] = result
        for line in metrics.doubts(found):
            self.progress.warn(line)
        return {name: metrics.summarized(result) for name, result in found.items()}

    def _intervals(self, summary: runs.Summary) -> dict[str, dict[str, list[float | None]]]:
        """Returns the intervals of the splits that people judge a run by."""
        judged = [name for name in ("val", "test") if getattr(summary, name)]
        return {name: made.intervals for name in judged if (made := evidence.read_evidence(self.run, name))}

    def _summary(self, loop: training.Loop | training.Probe, stopped: str) -> runs.Summary:
        made = training.summarize(self.config, self.plan, self.mesh, loop, self.data, self.parameters, stopped)
        return dataclasses.replace(made, leaks=self.leaks, weights=self.weights)

    def _write_stopped(self, loop: training.Loop | training.Probe) -> None:
        """Writes the summary of a run that was stopped, before any process leaves."""
        if self.main:
            self.run.write_summary(self._summary(loop, "signal"))
        runtime.wait_for_all("stopped")


class _Pictures(training.Observer):
    """Shows a run under way: rows on the screen, curves, the network, TensorBoard."""

    def __init__(self, config, run: runs.RunDirectory, plan: training.Plan, table: Sequence, showcase: training.Showcase,
                 events: runs.Events | runs.NoEvents, progress: Progress, ahead: training.Ahead):  # fmt: skip
        self._config, self._run, self._plan, self._table = config, run, plan, table
        self._showcase, self._events, self._progress, self._ahead = showcase, events, progress, ahead
        self._drawn_at = -math.inf

    def began(self):
        plan, parameters = self._plan, sum(row.parameters for row in self._table)
        if self._config.train.method == "probe":
            self._progress.message(f"  {parameters:,} parameters, of which the {self._table[-1].parameters:,} of {self._table[-1].name} are fitted, at most "
                                   f"{counted(len(self._config.probe.penalties), 'time')}")  # fmt: skip
            self._progress.message(pages.history_header("penalty"))
            return
        steps = f"{counted(plan.steps_per_epoch, 'step')} of {counted(plan.batch_size, 'image')} per epoch"
        train, every = self._config.train, training.epochs_between(self._config.train)
        each = f"; each {every}. and the last are evaluated and saved" if every > 1 else ""
        self._progress.message(f"  {parameters:,} parameters, {steps}, at most {counted(train.epochs, 'epoch')}{each}")
        self._progress.message(pages.history_header())

    def compiled(self):
        self._ahead.import_modules(SLOW)

    def step_logged(self, row):
        self._events(row, "train")

    def epoch_evaluated(self, row, numbers, *, best):
        self._events({"step": row["step"], **numbers}, "val")
        self._progress.message(pages.history_row(row, self._config.train.epochs, best=best))

    def epoch_ended(self, rows, best_step):
        config = self._config
        if time.monotonic() - self._drawn_at > PICTURES:
            pages.save_figure(pages.history_figure(rows, best_step, config.name), self._run.curves)
            if self._drawn_at == -math.inf:  # in place of a network that was described before
                pages.save_figure(
                    pages.network_figure(self._table, config.image.shape, config.name), self._run.network_picture, dpi=160
                )
            self._drawn_at = time.monotonic()
        self._events.image("augmented", lambda: self._showcase.picture(rows[-1]["step"]), rows[-1]["step"])


def _positive(config, classes: tuple[str, ...]) -> int:
    """The index of the positive class of two, else -1."""
    if len(classes) != 2:
        return -1
    if config.data.positive and config.data.positive not in classes:
        raise DataError(f"data.positive={config.data.positive!r} is not a class; use one of {', '.join(classes)}")
    return classes.index(config.data.positive) if config.data.positive else 1
