"""Checkpoints through Orbax: saved in the background, restored onto any mesh, latest and best.

A checkpoint holds three things, {model, optimizer, data}, and as metadata the config, class names, preprocessing and
the state of early stopping. Evaluation and prediction load `model` alone.

Once a checkpoint is whole, the SHA-256 of each of its files goes to `<workdir>/checksums/<step>.json`; it is compared before
anything is loaded.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnnjax.errors import CheckpointError
from cnnjax.runtime import processes as runtime
from cnnjax.training.state import TrainState

FORMAT = 2
PACKAGES = ("cnnjax", "jax", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Installed versions of what a checkpoint depends on."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def revision() -> str:
    """The git commit of this package, with "+" where files have changed since; "" where it is not in a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


class DamagedError(CheckpointError):
    """A checkpoint whose files are not what was saved."""


def preprocessing(config) -> dict:
    """How a file becomes the network's input; the same for training, evaluation and prediction."""
    return {"size": config.image.size, "resize": config.image.resize, "colour": "RGB", "scale": 1 / 255,
            "zca": config.image.zca}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Restored:
    step: int
    state: TrainState
    metadata: dict


class Checkpoints:
    """The checkpoints of one run, `<workdir>/checkpoints`: the latest two and the best are kept.

    Use as a context manager: leaving it waits for saves under way and raises their errors.
    """

    def __init__(self, workdir: str | Path, *, writable: bool = False, saved: Callable[[], None] = lambda: None):
        self.workdir = Path(workdir).absolute()
        self.directory = self.workdir / "checkpoints"
        self._writable = writable and jax.process_index() == 0
        if not writable and not self.directory.is_dir():
            raise CheckpointError(f"no checkpoints in {workdir}; train first, or name a run with --workdir=DIR")
        # Orbax reports each phase of each save, and an error once per array; errors reach the user from here.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.getLogger("absl").setLevel(logging.ERROR if runtime.is_distributed() else logging.CRITICAL)
        logging.getLogger("absl").addFilter(self._heard)
        _hush_late_answers()
        policies = ocp.training.preservation_policies
        self._manager = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(2),
                policies.BestN(get_metric_fn=lambda m: (-m["val_loss"], -m["step"]), n=1, keep_checkpoints_without_metrics=False),
            ]),
            cleanup_tmp_directories=writable,
            context=_context(),
        )  # fmt: skip
        self._sealing: threading.Thread | None = None
        self._failed = False
        self._saved = saved

    def _heard(self, record: logging.LogRecord) -> bool:
        """Whether a record of Orbax is for the user. One of several processes whose save fails ends here: Orbax would let it
        and all others wait for each other, and only its log says so."""
        if runtime.is_distributed() and record.exc_info and threading.current_thread().name == "async_save":
            try:
                with self._readable_errors():
                    raise record.exc_info[1]
            except CheckpointError as error:
                runtime.end(error, 2)
            except Exception:  # another process is lost, which surfaces in the loop
                pass
        return record.levelno >= logging.CRITICAL

    def _seal_when_whole(self, step: int) -> None:
        """Waits for the rename that ends a save, then writes its checksums. Runs in a thread of its own."""
        # Orbax calls back before the rename, not after it.
        while self._manager.is_saving_in_progress() and not (self.directory / str(step)).exists():
            time.sleep(0.05)
        self._failed = not (self.directory / str(step)).exists()
        with contextlib.suppress(OSError):  # a full disk is reported by `check_saved` or the next call
            self.seal()
        self._saved()

    def seal(self) -> None:
        """Writes checksums of what has none yet, and removes those of checkpoints that are gone."""
        there = {path.name: path for path in self.directory.iterdir() if path.name.isdigit()}
        seals = self.workdir / "checksums"
        seals.mkdir(exist_ok=True)
        for seal in seals.glob("*.json"):
            if seal.stem not in there:
                seal.unlink(missing_ok=True)
        for name, path in there.items():
            if not (seals / f"{name}.json").exists():
                temporary = seals / f".{name}.{os.getpid()}"
                files = _checksums(path)
                temporary.write_text(json.dumps({"files": files, "sha256": _digest(files)}, indent=1))
                os.replace(temporary, seals / f"{name}.json")

    def damage(self, step: int) -> str:
        """What is wrong with the files of a checkpoint; "" when they are as saved, or from before checksums were whole."""
        try:
            seal = json.loads((self.workdir / "checksums" / f"{step}.json").read_text())
            expected = seal["files"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""
        if seal.get("sha256") != _digest(expected):  # it is the list that is damaged, which says nothing of the files
            return ""
        found = _checksums(self.directory / str(step))
        for name in sorted({*expected, *found}):
            if name not in found:
                return f"{name} is gone"
            if found[name] != expected.get(name):
                return f"{name} is not as it was saved"
        return ""

    def restore_newest(self, abstract: TrainState, data, warn: Callable[[str], None]) -> "Restored | None":
        """The newest checkpoint that is whole; damaged ones are moved to `<workdir>/damaged`. None where there is none at all.

        Raises:
            CheckpointError: none is whole, or they hold another network.
        """
        problem = None
        while (step := self.latest()) is not None:
            try:
                return self.restore(step, abstract, data)
            except DamagedError as error:
                problem = error
                aside = self._set_aside(step)
                warn(f"{str(error).partition(';')[0]}; it was moved to {aside}, and the one before is used")
        if problem is not None:
            raise CheckpointError(f"no checkpoint in {self.directory} is whole, they were moved to {self.workdir / 'damaged'}; "
                                  "start again in another --workdir")  # fmt: skip
        return None

    def _set_aside(self, step: int) -> Path:
        aside = self.workdir / "damaged" / f"{step}-{time.time_ns()}"
        if self._writable:
            aside.parent.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), aside)
            (self.workdir / "checksums" / f"{step}.json").unlink(missing_ok=True)
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
        """Errors of saving, which surface at any later call, as one line."""
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
                f"{'make room' if full else 'put that right'}, then the same command {self._goes_on()}"
            ) from error

    def _goes_on(self) -> str:
        """From where the same command goes on, by what is whole on the disk."""
        steps = [int(path.name) for path in self.directory.glob("*") if path.name.isdigit()]
        return f"continues from step {max(steps)}" if steps else "starts from the beginning (no checkpoint was saved yet)"

    def check_room(self, state: TrainState) -> None:
        """Raises CheckpointError where not even one checkpoint of this state fits on the disk."""
        need = sum(leaf.nbytes for leaf in jax.tree.leaves((_model(state), _optimizer(state))))
        disk = shutil.disk_usage(self.workdir) if self._writable else None
        if disk and disk.free < need and disk.total:  # some remote file systems say 0 of everything
            raise CheckpointError(f"no space left in {self.workdir}: a checkpoint takes {need / 1e6:,.1f} MB, there are "
                                  f"{disk.free / 1e6:,.1f}; make room, then the same command {self._goes_on()}")  # fmt: skip

    def check_saved(self) -> None:
        """Raises CheckpointError where the save under way has come to nothing; does not wait for it."""
        if self._failed:
            self.wait()

    def save(self, state: TrainState, data, metadata: dict, val_loss: float | None) -> None:
        """Starts to save in the background. `data` is the Grain iterator; `val_loss` None where not evaluated."""
        with self._readable_errors():
            self._manager.save_checkpointables_async(
                int(state.step),
                {
                    "model": _model(state),
                    "optimizer": _optimizer(state),
                    "data": {"next_index": int(data.get_state()["next_index"])},
                },
                metrics=None if val_loss is None else {"val_loss": val_loss, "step": int(state.step)},
                custom_metadata={"format": FORMAT, "versions": versions(), "revision": revision(), **metadata},
            )
        if self._writable:
            if self._sealing is not None:
                self._sealing.join()
            self._sealing = threading.Thread(target=self._seal_when_whole, args=(int(state.step),), daemon=True)
            self._sealing.start()

    def wait(self) -> None:
        """Waits until what `save` has started is on disk."""
        with self._readable_errors():
            self._manager.wait()
        if self._sealing is not None:
            self._sealing.join()
        if self._writable and self.directory.is_dir():  # what was killed between a save and its checksums is sealed here
            with self._readable_errors():
                self.seal()

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest.step if self._manager.latest else None

    def best(self) -> int | None:
        """Step with the lowest val_loss; the first of equals. None before the first evaluation."""
        scored = [(c.metrics["val_loss"], c.step) for c in self._manager.checkpoints if c.metrics]
        return min(scored)[1] if scored else None

    def resolve(self, step: str | int) -> int:
        """Of "best", "latest" or a number, the step, when it is there."""
        self.wait()  # a save under way counts as there
        steps = [c.step for c in self._manager.checkpoints]
        found = {"best": self.best, "latest": self.latest}.get(step, lambda: int(step) if str(step).isdigit() else None)()
        if found in steps:
            return found
        if not steps:
            raise CheckpointError(f"no checkpoint in {self.directory} yet; the first is saved after an epoch or when training "
                                  "is stopped: train on, then ask again")  # fmt: skip
        named = ["latest", *map(str, steps)] if self.best() is None else ["best", "latest", *map(str, steps)]
        raise CheckpointError(f"no checkpoint {step!r} in {self.directory}; use --step={' or --step='.join(named)}")

    def resolve_best(self, step: int, warn: Callable[[str], None]) -> int:
        """`step`, or where its checkpoint is gone or damaged the best that is whole. Raises CheckpointError without one."""
        self.wait()
        scored = sorted((c.metrics["val_loss"], c.step) for c in self._manager.checkpoints if c.metrics)
        steps = [c.step for c in self._manager.checkpoints]
        for candidate in dict.fromkeys([step, *(s for _, s in scored), *reversed(steps)]):
            if candidate in steps and not self.damage(candidate):
                if candidate != step:
                    warn(f"the best checkpoint, {step}, is gone or damaged; the numbers are those of step {candidate}")
                return candidate
        raise CheckpointError(f"no checkpoint in {self.directory} is whole; start again in another --workdir")

    @contextlib.contextmanager
    def _readable_damage(self, step: int):
        """Errors of loading as one line; Orbax has no common error for damaged files."""
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
        reason = self.damage(step)
        if reason:
            raise self._damaged(step, reason)

    def metadata(self, step: int) -> dict:
        """What was saved beside the arrays."""
        self.check(step)
        with self._readable_damage(step):
            metadata = self._manager.checkpointables_metadata(step).custom_metadata
            if not metadata:
                raise ValueError("its metadata is gone")
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"checkpoint {step} in {self.directory} has format {metadata.get('format')}, this "
                                  f"version of cnnjax reads {FORMAT}")  # fmt: skip
        return metadata

    def load_model(self, step: int, abstract: dict) -> dict:
        """{"params", "stats", "ema"} on the shardings of `abstract`, whatever devices saved them."""
        self.check(step)
        with self._readable_damage(step):
            self._check(step, {"model": abstract})
            return self._manager.load_checkpointables(step, {"model": abstract})["model"]

    def restore(self, step: int, abstract: TrainState, data) -> Restored:
        """The whole training state; the iterator `data` is set to its position."""
        items = {"model": _model(abstract), "optimizer": _optimizer(abstract)}
        self.check(step)
        with self._readable_damage(step):
            self._check(step, items)
            out = self._manager.load_checkpointables(step, {**items, "data": {"next_index": 0}})
            # Not Grain's own file for each process: the number of processes may be another one now.
            data.set_state({"next_index": int(out["data"]["next_index"])})
        state = TrainState(**out["model"], **out["optimizer"])
        return Restored(step, state, self.metadata(step))

    def _check(self, step: int, abstract: dict) -> None:
        """Compares shapes first: Orbax would name the file that it misses, not the reason."""
        saved = self._manager.checkpointables_metadata(step).metadata
        for item, tree in abstract.items():
            want, have = _shapes(tree), _shapes(saved[item])
            if not have:
                raise ValueError(f"its {item} cannot be read")
            different = [k for k in {**want, **have} if want.get(k) != have.get(k)]
            if different:
                k = different[0]
                raise CheckpointError(f"checkpoint {step} in {self.directory} holds another network: {item}{k} is "
                                      f"{have.get(k, 'not there')}, the config needs {want.get(k, 'nothing')}")  # fmt: skip


def _context() -> ocp.Context:
    context = ocp.Context()
    # By the system's clock, which a computer that has slept sets forward: after the usual 20 minutes a save is given up.
    context.asynchronous.timeout_secs = 7 * 86400
    # Where they cannot be made, the rest of the save would wait for them until that time is over.
    context.asynchronous.create_directories_asynchronously = False
    return context


@functools.cache
def _hush_late_answers() -> None:
    """TensorStore's threads print a traceback for each array that fails after Orbax has given up because of another."""
    otherwise = sys.unraisablehook

    def hook(unraisable):
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            otherwise(unraisable)

    sys.unraisablehook = hook


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _checksums(directory: Path) -> dict[str, str]:
    """Path below the directory -> SHA-256 of the file."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _model(state: TrainState) -> dict:
    return {"params": state.params, "stats": state.stats, "ema": state.ema}


def _optimizer(state: TrainState) -> dict:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums, "scale": state.scale}


def _shapes(tree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "metadata", tree))
    return {_path(path): tuple(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape) for path, leaf in leaves}


def _path(path) -> str:
    # Saved trees have dicts and lists where the live ones have named tuples.
    return "/" + "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
