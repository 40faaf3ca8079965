"""One verb: cross-validate, a network for each fold and their predictions put together."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import pages, runs, runtime, training
from cnnjax.commands.train import train
from cnnjax.errors import CheckpointError, ConfigError, Stopped
from cnnjax.progress import Progress, counted
from cnnjax.studies.pooling import pool


def crossvalidate(config: config_lib.Config, workdir: str | Path, fold: int | None = None, *, progress: Progress | None = None,
                  stop: Callable[[], bool] = lambda: False, saved: Callable[[], None] = lambda: None
                  ) -> runs.CrossValidation | None:  # fmt: skip
    """Trains a network for each fold, one after the other, and puts their predictions together.

    The folds are frozen to `folds.csv`, and each network is a run of its own in `folds/r<repeat>k<fold>`. Runs that have come to their
    end are not trained again. After the last one `eval/oof.csv`, `crossvalidation.json` and `report.html` are written.

    Args:
        config: from `load_config`; `split.folds` and `split.repeats` say how many networks there are.
        workdir: the directory; made when missing, continued by another call, never overwritten.
        fold: the number of the only network to train, from 0, counted over the folds of the first repeat, then of the second;
            None: all of them.
        progress: hears what happens; silent by default.
        stop: polled between steps; once true, everything is saved and `Stopped` is raised.
        saved: called, in another thread, whenever a checkpoint is whole.

    Returns:
        The results; None where other networks are still to be trained.

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true; the same call continues.
    """
    runtime.set_up(config)
    main, run = runtime.is_main(), runs.RunDirectory(workdir)
    progress = (main and progress) or Progress()
    config = training.with_weights(config, run, progress)
    with runtime.all_or_none(), runs.begun(run.path):
        _check(config, run, fold)
        config = training.with_batch_size(training.with_kept(config, run), run, progress)
        own = _of_fold(config)
        folds = _frozen(config, own, run, fold, progress, main, stop)
    runtime.wait_for_all("folds")
    names = folds.names
    once = _Once(progress)
    for number in range(len(names)) if fold is None else [fold]:
        repeat, part = names[number]
        directory = runs.fold_run(run, repeat, part)
        if _is_done(directory, own):
            continue
        if stop() and not runtime.is_distributed():
            raise Stopped("stopped between two folds, everything is saved; the same command continues")
        progress.message(f"\n{directory.path.name}, {number + 1} of {len(names)}: test {folds.describe(repeat, part)}")
        train(own, directory.path, progress=once, stop=stop, saved=saved)
    waiting = [number for number, name in enumerate(names) if not _is_done(runs.fold_run(run, *name), own)]
    if waiting:
        progress.message(
            f"\n{counted(len(names) - len(waiting), 'fold')} of {len(names)} done; still to be trained: {', '.join(map(str, waiting))}"
        )
        return None
    found = pool(run, folds, config, write=main)
    if main:
        pages.write_page(run.report, pages.crossvalidation_page(run, found))
    runtime.wait_for_all("pooled")
    return found


def _check(config: config_lib.Config, run: runs.RunDirectory, fold: int | None) -> None:
    """Raises UserError for what cannot work, before anything is read or written."""
    count = config.split.folds * config.split.repeats
    if fold is not None and not 0 <= fold < count:
        raise ConfigError(f"--fold={fold}: there are {count} networks (split.folds={config.split.folds}, split.repeats={config.split.repeats}); "
                          f"use 0 to {count - 1}")  # fmt: skip
    data_lib.check_divides(config.split)
    run.check_apart(config)
    if not runs.is_crossvalidation(run):
        if run.is_run():
            raise CheckpointError(
                f"{run} holds a run, not a cross-validation; use another --workdir, such as --workdir={run}-folds"
            )
        run.check_unused()


def _of_fold(config: config_lib.Config) -> config_lib.Config:
    """Returns the config of the runs of the folds: the shares of the images are those that folds make."""
    share = 1 / config.split.folds
    return dataclasses.replace(config, split=dataclasses.replace(config.split, train=1 - 2 * share, val=share, test=share))


def _frozen(config: config_lib.Config, own: config_lib.Config, run: runs.RunDirectory, fold: int | None, progress: Progress, main: bool,
            stop: Callable[[], bool]) -> data_lib.Folds:  # fmt: skip
    """Returns the folds, and gives each of its runs its split; claims the directory for the config."""
    held = run.read_config() if run.is_run() else {}
    if held:
        run.finished(config)  # raises for another config
    folds = data_lib.read_folds(run) if runs.is_crossvalidation(run) else None
    wanted = [(config.split.repeats, config.split.folds)] == [(len(folds.parts), folds.count)] if folds else False
    if not wanted or not all(_is_done(runs.fold_run(run, *name), own) for name in folds.names):
        folds = data_lib.prepare_folds(config, run, progress, freeze=main, stop=stop)
        for number, name in enumerate(folds.names):
            fresh = runs.fold_run(run, *name)
            if main and fold in (None, number) and not fresh.splits.exists():
                fresh.write_rows(fresh.splits, ("id", "label", "group", "split"), folds.split(*name))
    if main and (not held or held["train"]["epochs"] < config.train.epochs):
        run.write_json(run.config, json.loads(config_lib.to_json(config)))
    return folds


def _is_done(run: runs.RunDirectory, config: config_lib.Config) -> bool:
    """Returns whether the run of a fold has come to its end. Raises CheckpointError for one of another config."""
    return run.finished(training.with_kept(config, run)) is not None


class _Once(Progress):
    """Leaves out the lines that an earlier fold has said: what all of them share."""

    def __init__(self, progress: Progress):
        self._progress, self._said = progress, set()

    def message(self, text):
        if text not in self._said or text in (pages.history_header(), pages.history_header("penalty")):
            self._said.add(text)
            self._progress.message(text)

    def warn(self, text):
        if text not in self._said:
            self._said.add(text)
            self._progress.warn(text)

    def task(self, name, total, unit):
        return self._progress.task(name, total, unit)
