"""Checkpoints through Orbax: saved in the background, restored onto any mesh, latest and best.

A checkpoint holds trees of arrays by name, such as {"model", "optimizer"}, the index of the next batch, and metadata: a tree of JSON.
Evaluation and prediction load `model` alone. Once a checkpoint is whole, its checksums are written; see `seals`.
"""

import contextlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from cnnjax import runtime
from cnnjax.checkpoints.fitting import check_fit
from cnnjax.checkpoints.opened import DIGITS, hush_late_answers, is_step, open_checkpointer, score
from cnnjax.checkpoints.provenance import revision, versions
from cnnjax.checkpoints.records import Places, Restored
from cnnjax.checkpoints.seals import DamagedError, Seals
from cnnjax.errors import CheckpointError
from cnnjax.inside import inside

FORMAT = 2
OF_DISKS = re.compile("No space left|Disk quota|Permission denied|Read-only file system|Input/output error")


class Checkpoints:
    """The checkpoints of one run: the latest two and the best are kept.

    Use it as a context manager: leaving it waits for saves under way and raises their errors.

    Args:
        run: the run's directories.
        writable: this run saves; else checkpoints are only read.
        saved: called, in another thread, whenever a checkpoint is whole.
        warn: hears of damaged checkpoints that are set aside, where they are written.

    Raises:
        CheckpointError: there is nothing to read.
    """

    def __init__(self, run: Places, *, writable: bool = False, saved: Callable[[], None] = lambda: None,
                 warn: Callable[[str], None] = lambda text: None):  # fmt: skip
        self.run, self.directory = run.path.absolute(), run.checkpoints.absolute()
        self.aside = run.damaged.absolute()
        self.seals = Seals(self.directory, run.checksums.absolute())
        self._saves = writable
        self._writable = writable and jax.process_index() == 0
        if not writable and not self.directory.is_dir():
            if run.path.is_file():
                raise CheckpointError(f"{run.path} is a file; name the directory of a run with --workdir=DIR")
            raise CheckpointError(f"no checkpoints in {run.path}; train first, or name a run with --workdir=DIR")
        # Orbax reports each phase of each save, and an error once per array; errors reach the user from here.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.getLogger("absl").setLevel(logging.ERROR if runtime.is_distributed() else logging.CRITICAL)
        logging.getLogger("absl").addFilter(self._heard)
        hush_late_answers()
        self._bad = self._sweep(warn)
        try:
            self._manager = open_checkpointer(self.directory, writable=writable)
        except Exception as error:  # a stranger's files
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            step, reason = next(iter(self._bad.items()), ("", reason))
            raise CheckpointError(f"checkpoint {step} in {self.directory} is damaged ({reason}) and keeps the others from being read; "
                                  f"restore it, or move {self.directory / str(step)} away") from error  # fmt: skip
        self._sealing: threading.Thread | None = None
        self._failed = False
        self._saved = saved

    def _sweep(self, warn: Callable[[str], None]) -> dict[int, str]:
        """Step -> why its scores or its metadata are not those that were saved. Where this run saves, such checkpoints are set aside:
        a wrong score would decide which of the others are kept."""
        bad = self.seals.misfits()
        if self._writable:
            for step, reason in bad.items():
                warn(f"checkpoint {step} in {self.directory} is damaged ({reason}); it was moved to {self._move(step)}")
        if self._saves:
            runtime.wait_for_all("swept")
        return {} if self._saves else bad

    def _heard(self, record: logging.LogRecord) -> bool:
        """Returns whether a record of Orbax is for the user. A process whose save fails ends here, where there are several: Orbax
        would let all of them wait for each other, and only its log says so."""
        if runtime.is_distributed() and record.exc_info and threading.current_thread().name == "async_save":
            try:
                with self._readable_errors():
                    raise record.exc_info[1]
            except CheckpointError as error:
                # What the disk does not explain may be the loss of another process, after which all start again.
                runtime.end(error, 2 if OF_DISKS.search(str(error.__cause__)) else 1)
            except Exception:  # another process is lost, which surfaces in the loop
                pass
        return record.levelno >= logging.CRITICAL

    def _seal_when_whole(self, step: int) -> None:
        """Waits for the rename that ends a save, then writes its checksums. Runs in a thread of its own."""
        # Orbax calls back before the rename, not after it, and removes older checkpoints a moment later.
        late = 0.0
        while self._manager.is_saving_in_progress() and late < 1:
            time.sleep(0.05)
            late += 0.05 * (self.directory / str(step)).exists()
        self._failed = not (self.directory / str(step)).exists()
        with contextlib.suppress(OSError):  # a full disk is reported by `check_saved` or the next call
            self.seals.write()
        self._saved()

    def restore_newest(self, abstract: Mapping[str, Any], warn: Callable[[str], None]) -> Restored | None:
        """Restores the newest checkpoint that is whole, and moves damaged ones aside; None where there is none at all.

        Args:
            abstract: as for `restore`.
            warn: hears of each damaged checkpoint.

        Raises:
            CheckpointError: none is whole, or they hold another network.
        """
        problem = None
        while (step := self.latest()) is not None:
            try:
                return self.restore(step, abstract)
            except DamagedError as error:
                problem = error
                aside = self._set_aside(step)
                warn(f"{str(error).partition(';')[0]}; it was moved to {aside}, and the one before is used")
        if problem is not None:
            raise CheckpointError(f"no checkpoint in {self.directory} is whole, they were moved to {self.aside}; "
                                  "start again in another --workdir")  # fmt: skip
        return None

    def _move(self, step: int) -> Path:
        aside = self.aside / f"{step}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        os.rename(inside(self.directory, str(step)), aside)
        self.seals.remove(step)
        return aside

    def _set_aside(self, step: int) -> Path:
        aside = self._move(step) if self._writable else self.aside
        runtime.wait_for_all(f"set aside {step}")
        self._manager.reload()
        return aside

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        logging.getLogger("absl").removeFilter(self._heard)
        if runtime.is_loss(exc[0]):  # to wait for a save would be to wait for the lost process
            return
        try:
            with self._readable_errors():
                self._manager.close()
            if self._sealing is not None:
                self._sealing.join()
        except CheckpointError:
            if kind is None:  # else the error under way says more, and often has the same cause
                raise

    @contextlib.contextmanager
    def _readable_errors(self):
        """Turns errors of saving, which surface at any later call, into one line."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # Orbax, TensorStore and the system have no error in common
            if runtime.is_loss(error):
                raise
            full = "No space left" in str(error) or "Disk quota" in str(error)
            reason = "no space left on the device" if full else (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"cannot save a checkpoint in {self.directory} ({reason}); "
                f"{'make room' if full else 'fix that'}, then the same command {self._goes_on()}"
            ) from error

    def _goes_on(self) -> str:
        """Tells where the same command goes on, by the checkpoints that are whole."""
        steps = [int(path.name) for path in self.directory.glob("*") if is_step(path.name)]
        return f"continues from step {max(steps)}" if steps else "starts from the beginning (no checkpoint was saved yet)"

    def check_room(self, trees: Mapping[str, Any]) -> None:
        """Raises CheckpointError where not even one checkpoint of these trees fits on the disk."""
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(dict(trees)))
        disk = shutil.disk_usage(self.run) if self._writable else None
        if disk and disk.free < need and disk.total:  # some remote file systems say 0 of everything
            raise CheckpointError(f"no space left in {self.run}: a checkpoint takes {need / 1e6:,.1f} MB, there are "
                                  f"{disk.free / 1e6:,.1f}; make room, then the same command {self._goes_on()}")  # fmt: skip

    def check_saved(self) -> None:
        """Raises CheckpointError where the save under way has failed; does not wait for it."""
        if self._failed:
            self.wait()

    def save(self, step: int, trees: Mapping[str, Any], next_index: int, metadata: Mapping[str, Any],
             scores: Mapping[str, float] | None) -> None:  # fmt: skip
        """Starts to save in the background.

        Args:
            step: updates done.
            trees: name -> tree of arrays, such as {"model": ..., "optimizer": ...}.
            next_index: of the next batch.
            metadata: JSON; the format, versions and revision are added.
            scores: {"val_loss", "score"}, of which the lowest score decides which checkpoint is the best; None where it was not
                evaluated.
        """
        with self._readable_errors():
            self._manager.save_checkpointables_async(
                step,
                {**trees, "data": {"next_index": next_index}},
                metrics=scores and {**scores, "step": step},
                custom_metadata={"format": FORMAT, "versions": versions(), "revision": revision(), **metadata},
            )
        if self._writable:
            if self._sealing is not None:
                self._sealing.join()
            self._sealing = threading.Thread(target=self._seal_when_whole, args=(step,), daemon=True)
            self._sealing.start()

    def wait(self) -> None:
        """Waits until the saves under way are on the disk."""
        with self._readable_errors():
            self._manager.wait()
        if self._sealing is not None:
            self._sealing.join()
        # A run that was killed between a save and its checksums is sealed here.
        if self._writable and self.directory.is_dir():
            with self._readable_errors():
                self.seals.write()

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint; None before the first."""
        return self._manager.latest.step if self._manager.latest else None

    def best(self) -> int | None:
        """Returns the step with the lowest score, the first of equals; None before the first evaluation.

        Raises:
            DamagedError: a score is not as it was saved, or a checkpoint is gone.
        """
        there = self._manager.checkpoints
        scored = [(score(c.metrics), c.step) for c in there if c.metrics and c.step not in self._bad]
        best = min(scored, default=None)
        gone = {} if self._saves else dict.fromkeys(self.seals.steps() - {c.step for c in there}, "it is gone")
        for step, reason in {**self._bad, **gone}.items():
            sealed = self.seals.score(step)  # one that was worse decides nothing, and is being removed perhaps
            if best is None or sealed is None or (sealed, step) < best:
                raise self._damaged(step, reason)
        return best[1] if best else None

    def resolve(self, step: str | int) -> int:
        """Returns the step of "best", "latest" or a number. Raises CheckpointError where it is not there."""
        self.wait()  # a save under way counts
        steps = [c.step for c in self._manager.checkpoints]
        number = int(step) if str(step).isdecimal() and len(str(step)) <= DIGITS else None
        found = {"best": self.best, "latest": self.latest}.get(step, lambda: number)()
        if found in steps:
            return found
        if not steps:
            raise CheckpointError(f"no checkpoint in {self.directory} yet; the first is saved after an epoch or when training "
                                  "is stopped: train on, then ask again")  # fmt: skip
        best = ["best"] if any(c.metrics for c in self._manager.checkpoints) else []
        named = [*best, "latest", *map(str, steps)]
        raise CheckpointError(f"no checkpoint {step!r} in {self.directory}; use --step={' or --step='.join(named)}")

    def resolve_best(self, step: int, warn: Callable[[str], None]) -> int:
        """Returns `step`, or the best step that is whole where that checkpoint is gone or damaged.

        Raises:
            CheckpointError: none is whole.
        """
        self.wait()
        scored = sorted((score(c.metrics), c.step) for c in self._manager.checkpoints if c.metrics)
        steps = [c.step for c in self._manager.checkpoints]
        for candidate in dict.fromkeys([step, *(s for _, s in scored), *reversed(steps)]):
            if candidate in steps and not self.seals.damage(candidate):
                if candidate != step:
                    warn(f"the best checkpoint, {step}, is gone or damaged; the numbers are those of step {candidate}")
                return candidate
        raise CheckpointError(f"no checkpoint in {self.directory} is whole; start again in another --workdir")

    @contextlib.contextmanager
    def _readable_damage(self, step: int):
        """Turns errors of loading into one line; Orbax has no common error for damaged files."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            if runtime.is_loss(error):  # the files are as they were
                raise
            raise self._damaged(step, (str(error).splitlines() or [type(error).__name__])[0]) from error

    def _damaged(self, step: int, reason: str) -> DamagedError:
        others = [str(c.step) for c in self._manager.checkpoints if c.step != step]
        advice = f"evaluate or predict with --step={' or --step='.join(others)}" if others else "there is no other"
        return DamagedError(f"checkpoint {step} in {self.directory} is damaged ({reason}); {advice}")

    def check(self, step: int) -> None:
        """Raises DamagedError for a checkpoint whose files have changed."""
        if reason := self.seals.damage(step):
            raise self._damaged(step, reason)

    def metadata(self, step: int) -> dict:
        """Returns the metadata of a checkpoint. Raises CheckpointError for another format."""
        self.check(step)
        with self._readable_damage(step):
            metadata = self._manager.checkpointables_metadata(step).custom_metadata
            if not metadata:
                raise ValueError("its metadata is gone")
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"checkpoint {step} in {self.directory} has format {metadata.get('format')}, this "
                                  f"version of cnnjax reads {FORMAT}")  # fmt: skip
        return metadata

    def load(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Loads trees by name.

        Args:
            step: of the checkpoint.
            abstract: name -> tree of shapes with the shardings to restore to, whatever devices saved them.

        Raises:
            DamagedError: the files have changed since.
            CheckpointError: the shapes are of another network.
        """
        self.check(step)
        with self._readable_damage(step):
            self._check(step, abstract)
            out = self._manager.load_checkpointables(step, dict(abstract))
        return {name: out[name] for name in abstract}

    def restore(self, step: int, abstract: Mapping[str, Any]) -> Restored:
        """Loads trees as `load` does, the index of the next batch, and the metadata."""
        self.check(step)
        with self._readable_damage(step):
            self._check(step, abstract)
            # Not Grain's own file for each process: the number of processes may be another one now.
            out = self._manager.load_checkpointables(step, {**abstract, "data": {"next_index": 0}})
            next_index = int(out["data"]["next_index"])
        return Restored(step, {name: out[name] for name in abstract}, next_index, self.metadata(step))

    def _check(self, step: int, abstract: Mapping[str, Any]) -> None:
        """Compares the trees with what was saved: Orbax would name the file that it misses, not the reason."""
        check_fit(self.directory / str(step), self._manager.checkpointables_metadata(step).metadata, abstract)
