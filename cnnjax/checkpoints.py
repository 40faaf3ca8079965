"""Checkpoints through Orbax: saved in the background, restored onto any mesh, latest and best.

A checkpoint holds three things, {model, optimizer, data}, and as metadata the config, class names, preprocessing and
the state of early stopping. Evaluation and prediction load `model` alone.
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnnjax.errors import CheckpointError
from cnnjax.state import TrainState

FORMAT = 1
PACKAGES = ("cnnjax", "jax", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Installed versions of what a checkpoint depends on."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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

    def __init__(self, workdir: str | Path, *, writable: bool = False):
        self.directory = Path(workdir).absolute() / "checkpoints"
        if not writable and not self.directory.is_dir():
            raise CheckpointError(f"no checkpoints in {workdir}; train first, or name a run with --workdir=DIR")
        # Orbax reports each phase of each save, and an error once per array; errors reach the user from here.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        policies = ocp.training.preservation_policies
        self._manager = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(2),
                policies.BestN(get_metric_fn=lambda m: (-m["val_loss"], -m["step"]), n=1, keep_checkpoints_without_metrics=False),
            ]),
            cleanup_tmp_directories=writable,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        try:
            with self._readable_errors():
                self._manager.close()
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
            full = "No space left" in str(error) or "Disk quota" in str(error)
            reason = "no space left on the device" if full else (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"cannot save a checkpoint in {self.directory} ({reason}); "
                f"{'make room' if full else 'put that right'}, then the same command continues from the last one"
            ) from error

    def save(self, state: TrainState, data, metadata: dict, val_loss: float | None) -> None:
        """Starts to save in the background. `data` is the Grain iterator; `val_loss` None where not evaluated."""
        with self._readable_errors():
            self._manager.save_checkpointables_async(
                int(state.step),
                {"model": {"params": state.params, "stats": state.stats}, "optimizer": _optimizer(state), "data": data},
                metrics=None if val_loss is None else {"val_loss": val_loss, "step": int(state.step)},
                custom_metadata={"format": FORMAT, "versions": versions(), **metadata},
            )

    def wait(self) -> None:
        """Waits until what `save` has started is on disk."""
        with self._readable_errors():
            self._manager.wait()

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
        there = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(
            f"no checkpoint {step!r} in {self.directory}; use best, latest or a step that is kept: {there}"
        )

    @contextlib.contextmanager
    def _readable_damage(self, step: int):
        """Errors of loading as one line; Orbax has no common error for damaged files."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            others = ", ".join(str(c.step) for c in self._manager.checkpoints if c.step != step) or "none"
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]}); "
                f"evaluate or predict with another, --step={others}, or delete the folder {step} to continue from an earlier one"
            ) from error

    def metadata(self, step: int) -> dict:
        """What was saved beside the arrays."""
        with self._readable_damage(step):
            metadata = self._manager.checkpointables_metadata(step).custom_metadata
            if not metadata:
                raise ValueError("its metadata is gone")
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"checkpoint {step} in {self.directory} has format {metadata.get('format')}, this "
                                  f"version of cnnjax reads {FORMAT}")  # fmt: skip
        return metadata

    def load_model(self, step: int, abstract: dict) -> dict:
        """{"params", "stats"} on the shardings of `abstract`, whatever devices saved them."""
        with self._readable_damage(step):
            self._check(step, {"model": abstract})
            return self._manager.load_checkpointables(step, {"model": abstract})["model"]

    def restore(self, step: int, abstract: TrainState, data) -> Restored:
        """The whole training state; the iterator `data` is set to its position."""
        items = {"model": {"params": abstract.params, "stats": abstract.stats}, "optimizer": _optimizer(abstract)}
        with self._readable_damage(step):
            self._check(step, items)
            out = self._manager.load_checkpointables(step, {**items, "data": data})
        state = TrainState(params=out["model"]["params"], stats=out["model"]["stats"], **out["optimizer"])
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


def _optimizer(state: TrainState) -> dict:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums, "scale": state.scale}


def _shapes(tree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "metadata", tree))
    return {_path(path): tuple(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape) for path, leaf in leaves}


def _path(path) -> str:
    # Saved trees have dicts and lists where the live ones have named tuples.
    return "/" + "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
