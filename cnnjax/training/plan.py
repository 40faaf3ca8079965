"""The plan of a run: everything that follows from its config, its classes and the number of its training images, before any pixel."""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from cnnjax import inference, models, runtime
from cnnjax.training import feeds as pipeline
from cnnjax.training import finetuning, optimizers, phases, steps
from cnnjax.training.epochs import with_epochs

FREE = 0.4  # of the free memory of a device, which its images may take


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a training run.

    Attributes:
        classes: how many.
        images: of the training split.
        batch_size: images of a step.
        network: what is trained.
        rate: step -> learning rate; drops on a plateau come on top.
        steps_per_epoch: batches that show every training image; of a probe 1, for a penalty.
        resident: whether the training images are stored on every device.
        free_image_bytes: of each device, which more images may take beside them.
        steps: compiled at their first call, or ahead.
        tx: their optimizer.
    """

    classes: int
    images: int
    batch_size: int
    network: models.Network
    rate: optax.Schedule
    steps_per_epoch: int
    resident: bool
    free_image_bytes: float
    steps: steps.Steps
    tx: optimizers.Optimizer | finetuning.PartlyFrozen

    @property
    def trained(self) -> int:
        """Numbers in the parameters that are trained at last, if not from the start."""
        return sum(x.size for x in jax.tree.leaves(finetuning.trained_of(self.network.shapes[0], self.tx)))


def choose_batch_size(config, mesh: jax.sharding.Mesh, images: int) -> int:
    """`data.batch_size`, or where there are fewer training images, as many of them as devices and `train.accumulate` divide."""
    share = math.lcm(mesh.size, config.train.accumulate)
    return min(config.data.batch_size, max(images // share, 1) * share)


def free_image_bytes(config) -> float:
    """Returns the bytes of each device that a run's images may take while it trains; encoded ones take none."""
    if config.data.cache == "encoded" or config.train.method == "probe" or config.data.placement == "host":
        return 0.0
    return math.inf if config.data.placement == "device" else FREE * runtime.device_bytes()[1]


def stored_images(config, mesh: jax.sharding.Mesh, train: int, val: int) -> dict[str, int]:
    """Returns split -> bytes of each device that its images take while a run trains, of the splits whose images are stored there.

    Args:
        config: of the run.
        mesh: its devices.
        train, val: images of these splits.
    """
    shape, free, stored = config.image.shape, free_image_bytes(config), {}
    validation = inference.stored_bytes(val, shape, config.data.batch_size, mesh)
    for name, size in (("train", train * math.prod(shape) * 3), ("val", validation)):
        if size < free:
            stored[name], free = size, free - size
        else:
            break
    return stored


def make_plan(config, mesh: jax.sharding.Mesh, classes: int, images: int) -> Plan:
    """Plans a run of `images` training images; computes nothing. Raises DataError for images that are too small."""
    config = with_epochs(config, images)
    network = models.network(config, classes, runtime.ops(config.runtime, runtime.platform_of(mesh)))
    batch = choose_batch_size(config, mesh, images)
    probes = config.train.method == "probe"
    steps_per_epoch = 1 if probes else math.ceil(images / batch)
    rate = optimizers.make_schedule(config.optimizer, steps_per_epoch, config.train.epochs)
    tx = finetuning.tuned_optimizer(config, network, rate, steps_per_epoch)
    free = free_image_bytes(config) - images * math.prod(config.image.shape) * 3
    resident = free > 0
    phases.check_scales(config, network)
    most = runtime.steps_at_once(mesh) if resident else 1
    compiled = steps.compile_steps(network, tx, mesh, config, most, steps_per_epoch)
    return Plan(classes, images, batch, network, rate, steps_per_epoch, resident, free, compiled, tx)


def lower_features(config, plan: Plan, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """Returns the network up to its last layer, lowered for the batches in which a probe computes features."""
    height, width = config.image.shape
    batch = inference.batch_of_rows(config.data.batch_size, height, mesh)
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=runtime.batched(mesh))
    return plan.steps.features.lower({"params": plan.steps.abstract.params, "stats": plan.steps.abstract.stats}, images)


class Ahead:
    """Works ahead of the main thread in a thread of its own: compilation first, slow imports later."""

    def __init__(self, config, mesh: jax.sharding.Mesh):
        self._config, self._mesh = config, mesh
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._compiled: concurrent.futures.Future[Plan] | None = None

    def compile(self, classes: int, images: int) -> None:
        """Begins to compile the first state and the step of a run. Several processes compile together, later."""
        if not runtime.is_distributed():
            self._compiled = self._pool.submit(_compiled, self._config, self._mesh, classes, images)

    def plan(self, classes: int, images: int) -> Plan:
        """Returns the plan of a run, compiled where these numbers are those that were expected."""
        with contextlib.suppress(Exception):  # what is wrong is said below
            found = self._compiled and self._compiled.result()
            if found and (found.classes, found.images) == (classes, images):
                return found
        return make_plan(self._config, self._mesh, classes, images)

    def import_modules(self, names: Sequence[str]) -> None:
        """Begins to import modules that are expensive to import."""
        self._pool.submit(lambda: [importlib.import_module(name) for name in names])


def _compiled(config, mesh: jax.sharding.Mesh, classes: int, images: int) -> Plan:
    made = make_plan(config, mesh, classes, images)
    made.steps.first.lower().compile()
    if config.train.method == "probe":
        lower_features(config, made, mesh).compile()
        return made
    batch, resident = pipeline.shapes(mesh, made.batch_size, config.image.shape, images if made.resident else 0,
                                       weighted=bool(config.train.class_weights))  # fmt: skip
    made.steps.at(0)[1].lower(made.steps.abstract, batch, resident).compile()
    return made
