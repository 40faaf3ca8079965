"""Where a run starts: at its first state, or at its newest checkpoint."""

import dataclasses

import jax

from cnnjax import models, runs, runtime
from cnnjax import weights as weights_lib
from cnnjax.checkpoints import Checkpoints
from cnnjax.config import Origin
from cnnjax.data import Dataset, fit_whitening, splits_digest
from cnnjax.errors import DataError
from cnnjax.models import shardings
from cnnjax.progress import Progress
from cnnjax.training.early_stopping import EarlyStopping, epochs_of
from cnnjax.training.feeds import DeviceFeed, Feed, HostFeed, batches_of
from cnnjax.training.finetuning import frozen_paths
from cnnjax.training.imbalance import class_weights
from cnnjax.training.optimizers import make_schedule
from cnnjax.training.plan import Plan
from cnnjax.training.pretrained import begun
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
        weights: with which the run began; None: drawn ones.
    """

    state: TrainState
    step: int = 0
    saved: int = -1
    stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    weights: runs.Weights | None = None


def check_start(config, run: runs.RunDirectory, mesh: jax.sharding.Mesh, classes: int) -> None:
    """Checks what needs no image: that `train.freeze` names parameters, and that weights from a file fit the network.

    Raises:
        ConfigError: they do not.
    """
    if not config.train.freeze and not config.model.weights:
        return
    network = models.network(config, classes, runtime.ops(config.runtime, runtime.platform_of(mesh)))
    frozen_paths(config.train.freeze, network)
    own = config.model.weights and Origin.of(config.model.weights).kind != "run"
    if own and runtime.is_main() and not run.is_run():
        weights_lib.check(config, network)


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
        ConfigError: `model.weights` do not fit this network.
    """
    restored = checkpoints.restore_newest(plan.steps.abstract.trees(), progress.warn)
    if restored is None:
        state, weights = _first(config, data, plan, mesh, progress)
        return Start(state, weights=weights)
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
    weights = runs.Weights.kept(restored.metadata)
    return Start(TrainState.of(restored.trees), restored.step, restored.step, stopping, stopwatch, weights)


def first_state(config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress) -> TrainState:
    """Returns the state before the first update, with the weights of `model.weights` where it names some.

    Raises:
        ConfigError: `model.weights` do not fit this network.
        CheckpointError: the run that they are of is damaged, or not there.
    """
    return _first(config, data, plan, mesh, progress)[0]


def _first(
    config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress
) -> tuple[TrainState, runs.Weights | None]:
    """The first state, and the facts about the weights that it begins with."""
    state, weights = plan.steps.first(), None
    if config.model.weights:
        state, weights = begun(state, config, data, plan, mesh, progress)
    return (_whitened(state, config.image, data, mesh, progress) if config.image.zca else state), weights


def _other_rate(config, plan: Plan, step: int, before: int) -> str:
    """Tells where a learning rate that follows the number of epochs goes on."""
    old = float(make_schedule(config.optimizer, plan.steps_per_epoch, before)(step))
    new = float(plan.rate(step))
    if abs(new - old) < 1e-6 * new:
        return ""
    return (f"; optimizer.schedule={config.optimizer.schedule} now reaches to their end: the learning rate goes on at {new:.3g}, it had come "
            f"to {old:.3g}")  # fmt: skip


def _whitened(state: TrainState, image, data: Dataset, mesh: jax.sharding.Mesh, progress: Progress) -> TrainState:
    """Returns the state with ZCA whitening that is fitted to the training images."""
    progress.message("  fitting ZCA whitening to the training images")
    fitted = fit_whitening(data.images, data.splits["train"], image.zca_epsilon)
    mean, matrix = runtime.from_main(fitted)  # or the last bits of hosts might differ
    fitted = {"whiten": {"mean": mean, "matrix": matrix}}
    fitted = jax.device_put(fitted, shardings(fitted, mesh))
    return state.replace(stats={**state.stats, **fitted})
