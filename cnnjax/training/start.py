"""Where a run starts: at its first state, or at its newest checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax import runs, runtime
from cnnjax.checkpoints import Checkpoints
from cnnjax.data import Dataset, fit_whitening, read_splits, splits_digest
from cnnjax.errors import ConfigError, DataError
from cnnjax.inference import restore
from cnnjax.models import shardings
from cnnjax.progress import Progress, counted
from cnnjax.training.early_stopping import EarlyStopping, epochs_of
from cnnjax.training.feeds import DeviceFeed, Feed, HostFeed, batches_of
from cnnjax.training.imbalance import class_weights
from cnnjax.training.optimizers import make_schedule
from cnnjax.training.plan import Plan
from cnnjax.training.saver import recalled
from cnnjax.training.state import TrainState
from cnnjax.training.stopwatch import Stopwatch


@dataclasses.dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        state: of the network and its optimizer.
        step: updates done.
        saved: step of the newest checkpoint; -1 where there is none.
        stopping, stopwatch: the run's memory.
    """

    state: TrainState
    step: int = 0
    saved: int = -1
    stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)


def open_feed(config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress) -> Feed:
    """Returns the feed of a plan's training images. Raises ConfigError for weights that do not fit the classes."""
    batches = batches_of(config, data, plan.batch_size, weights=class_weights(config, data), process_index=jax.process_index(),
                         process_count=jax.process_count())  # fmt: skip
    if not plan.resident:
        return HostFeed(batches, mesh)
    progress.message(f"  the training images are stored on the device: {batches.nbytes / 1e6:,.0f} MB")
    return DeviceFeed(batches, mesh, runtime.steps_at_once(mesh))


def find_start(config, data: Dataset, plan: Plan, feed: Feed, mesh: jax.sharding.Mesh, checkpoints: Checkpoints,
               run: runs.RunDirectory, progress: Progress) -> Start:  # fmt: skip
    """Returns the start of a run, with its feed set to the position that belongs to it.

    Args:
        config: of the run.
        data: images and splits.
        plan: of the run.
        feed: of the training images.
        mesh: its devices.
        checkpoints: those of the run, perhaps none.
        run: whose split is the one of `data`.
        progress: hears of a continuation.

    Raises:
        CheckpointError: no checkpoint is whole, or they hold another network.
        DataError: the split is not that of the checkpoint.
        ConfigError: `train.init_from` has nothing for this network.
    """
    restored = checkpoints.restore_newest(plan.steps.abstract.trees(), progress.warn)
    if restored is None:
        return Start(first_state(config, data, plan, mesh, progress))
    if restored.metadata["splits_sha256"] != splits_digest(run.splits):
        raise DataError(f"{run.splits} is not the split of the checkpoint at step {restored.step}; "
                        "restore it or use another --workdir")  # fmt: skip
    levels = tuple(restored.metadata["preprocessing"].get("range", ()))
    if levels != data.preprocessing.range:
        raise DataError(f"the run began with image.range={levels}, these files have {data.preprocessing.range}; name its own files, or use "
                        "another --workdir")  # fmt: skip
    feed.set_state({"next_index": restored.next_index})
    progress.message(f"continuing from step {restored.step}")
    stopping, stopwatch = recalled(restored.metadata["early"])
    before = restored.metadata["config"]["train"]["epochs"]
    if config.train.epochs > before:
        if stopping.is_spent(epochs_of(config.train.patience, plan.steps_per_epoch)):
            stopping.wait = 0  # what had ended the run begins anew; else it goes on as that of a longer run would
        progress.message(
            f"  {config.train.epochs} epochs instead of {before}{_other_rate(config, plan, restored.step, before)}"
        )
    return Start(TrainState.of(restored.trees), restored.step, restored.step, stopping, stopwatch)


def first_state(config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress) -> TrainState:
    """Returns the state before the first update, with the weights of `train.init_from` where it names a run.

    Raises:
        ConfigError: `train.init_from` has nothing for this network.
        CheckpointError: it has no run.
    """
    state = plan.steps.first()
    if config.train.init_from:
        state = _begun_from(state, config.train.init_from, data, plan, mesh, progress)
    return _whitened(state, config.image, data, mesh, progress) if config.image.zca else state


def _other_rate(config, plan: Plan, step: int, before: int) -> str:
    """Tells where a learning rate that follows the number of epochs goes on."""
    old = float(make_schedule(config.optimizer, plan.steps_per_epoch, before)(step))
    new = float(plan.rate(step))
    if abs(new - old) < 1e-6 * new:
        return ""
    return (f"; optimizer.schedule={config.optimizer.schedule} now reaches to their end: the learning rate goes on at {new:.3g}, it had come "
            f"to {old:.3g}")  # fmt: skip


def _begun_from(state: TrainState, workdir: str, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress
                ) -> TrainState:  # fmt: skip
    """Returns the state with the best weights of another run, wherever names and shapes are the same."""
    other = restore(workdir)
    last = plan.network.model.layers[-1].module
    head = last if other.classes != data.classes else None
    taken, new = [], []

    def merged(path, own):
        names = tuple(getattr(part, "key", part) for part in path)
        found = flat.get(names)
        if found is None or found.shape != own.shape or names[1] == head:
            new.append("/".join(map(str, names[1:])))
            return own
        taken.append(names)
        return np.asarray(found)

    flat = traverse_util.flatten_dict(other.engine.model)
    trees = jax.tree_util.tree_map_with_path(merged, {"params": state.params, "stats": state.stats})
    if not any(names[0] == "params" and names[1] != last for names in taken):
        raise ConfigError(f"train.init_from={workdir}: nothing but the last layer of that network fits {plan.network.model.__class__.__name__}; name a "
                          "run of the same network")  # fmt: skip
    trees = jax.device_put(trees, shardings(trees, mesh))
    if both := _seen(workdir, data):
        progress.warn(f"{counted(both, 'image')} of val and test {'has' if both == 1 else 'have'} the name of a training image of {workdir}: if "
                      "they are the same, the numbers are better than on new images; use one split for both runs")  # fmt: skip
    more = f"; new are {', '.join(new[:6])}{', ...' if len(new) > 6 else ''}" if new else ""
    progress.message(
        f"  begins with the weights of {workdir}, step {other.step}: {len(taken)} of {len(taken) + len(new)} arrays{more}"
    )
    ema = jax.tree.map(jnp.copy, trees["params"]) if state.ema else {}
    return state.replace(**trees, ema=ema)


def _seen(workdir: str, data: Dataset) -> int:
    """Counts the images of val and test whose names another run has in its training split."""
    run = runs.RunDirectory(workdir)
    run.sealed.check(run.splits)
    if not run.splits.exists():
        return 0
    rows = read_splits(run.splits)
    trained = {id for id, split in zip(rows.ids, rows.splits, strict=True) if split == "train"}
    return sum(id in trained for name in ("val", "test") for id in data.ids.take(data.splits[name]))


def _whitened(state: TrainState, image, data: Dataset, mesh: jax.sharding.Mesh, progress: Progress) -> TrainState:
    """Returns the state with ZCA whitening that is fitted to the training images."""
    progress.message("  fitting ZCA whitening to the training images")
    fitted = fit_whitening(data.images, data.splits["train"], image.zca_epsilon)
    mean, matrix = runtime.from_main(fitted)  # or the last bits of hosts might differ
    fitted = {"whiten": {"mean": mean, "matrix": matrix}}
    fitted = jax.device_put(fitted, shardings(fitted, mesh))
    return state.replace(stats={**state.stats, **fitted})
