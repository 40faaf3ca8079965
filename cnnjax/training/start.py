"""Where a run starts: at its first state, or at its newest checkpoint."""

import dataclasses

import jax

from cnnjax import runs, runtime
from cnnjax.checkpoints import Checkpoints
from cnnjax.data import Dataset, fit_whitening, splits_digest
from cnnjax.errors import DataError
from cnnjax.models import shardings
from cnnjax.progress import Progress
from cnnjax.training.early_stopping import EarlyStopping
from cnnjax.training.feeds import DeviceFeed, Feed, HostFeed, TrainBatches
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


def open_feed(data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, seed: int, progress: Progress) -> Feed:
    """Returns the feed of a plan's training images."""
    batches = TrainBatches(data.images, data.labels, data.splits["train"], batch_size=plan.batch_size, seed=seed,
                           process_index=jax.process_index(), process_count=jax.process_count())  # fmt: skip
    if not plan.resident:
        return HostFeed(batches, mesh)
    progress.message(f"  the training images are stored on the device: {batches.nbytes / 1e6:,.0f} MB")
    return DeviceFeed(batches, mesh, runtime.steps_at_once(mesh))


def find_start(image, data: Dataset, plan: Plan, feed: Feed, mesh: jax.sharding.Mesh, checkpoints: Checkpoints,
               run: runs.RunDirectory, progress: Progress) -> Start:  # fmt: skip
    """Returns the start of a run, with its feed set to the position that belongs to it.

    Args:
        image: the `image` section.
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
    """
    restored = checkpoints.restore_newest(plan.steps.abstract.trees(), progress.warn)
    if restored is None:
        state = plan.steps.first()
        return Start(_whitened(state, image, data, mesh, progress) if image.zca else state)
    if restored.metadata["splits_sha256"] != splits_digest(run.splits):
        raise DataError(f"{run.splits} is not the split of the checkpoint at step {restored.step}; "
                        "restore it or use another --workdir")  # fmt: skip
    feed.set_state({"next_index": restored.next_index})
    progress.message(f"continuing from step {restored.step}")
    stopping, stopwatch = recalled(restored.metadata["early"])
    return Start(TrainState.of(restored.trees), restored.step, restored.step, stopping, stopwatch)


def _whitened(state: TrainState, image, data: Dataset, mesh: jax.sharding.Mesh, progress: Progress) -> TrainState:
    """Returns the state with ZCA whitening that is fitted to the training images."""
    progress.message("  fitting ZCA whitening to the training images")
    fitted = fit_whitening(data.images, data.splits["train"], image.zca_epsilon)
    mean, matrix = runtime.from_main(fitted)  # or the last bits of hosts might differ
    fitted = {"whiten": {"mean": mean, "matrix": matrix}}
    fitted = jax.device_put(fitted, shardings(fitted, mesh))
    return state.replace(stats={**state.stats, **fitted})
