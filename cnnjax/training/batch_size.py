"""The batch size that `data.batch_size=auto` stands for."""

import dataclasses
import math

import jax

from cnnjax import runs, runtime
from cnnjax.errors import ConfigError
from cnnjax.progress import Progress
from cnnjax.training.feeds import shapes
from cnnjax.training.plan import choose_batch_size, lower_features, make_plan

USUAL = 32  # images of a step on a CPU, whose memory sets no limit, and which larger batches do not make faster
MOST = 512  # from there on a small rate of updates costs more than the device gains
SHARE = 0.8  # of a device's memory that a step may take
IN_DOUBT = 0.01  # of the memory, which the pixels of a batch take as floats
CLASSES = 2  # for which a step is compiled before the data is known; their number hardly changes its memory


def with_batch_size(config, run: runs.RunDirectory, progress: Progress):
    """Returns the config with the number that `data.batch_size=auto` stands for; another config as it is.

    Args:
        config: of a command.
        run: a run that has begun keeps its number.
        progress: hears the number.
    """
    if not config.data.auto_batch:
        return config
    size = run.read_config()["data"]["batch_size"] if run.is_run() else 0
    if not size:
        mesh = runtime.mesh(config.runtime.devices, fsdp=config.mesh.fsdp)
        limit, _ = runtime.device_bytes()
        size = largest(config, mesh, limit) if limit else _multiple(config, mesh, USUAL)
        progress.message(f"  data.batch_size=auto: {size} images in each step")
    return _sized(config, size)


def largest(config, mesh: jax.sharding.Mesh, limit: int) -> int:
    """Returns the largest power of two, times the least that divides among the devices, whose step takes `SHARE` of `limit` bytes."""
    size = _multiple(config, mesh, 1)
    while 2 * size <= MOST and step_bytes(_sized(config, 2 * size), mesh) <= SHARE * limit:
        size *= 2
    return size


def check_fits(config, mesh: jax.sharding.Mesh, images: int) -> None:
    """Checks that there is memory for a step of a run of `images` training images, where that is in doubt: it compiles the step.

    Raises:
        ConfigError: there is not; with the batch that has room.
    """
    size, limit = choose_batch_size(config, mesh, images), runtime.device_bytes()[0]
    shared = mesh.size if not limit else 1  # the devices of a CPU are parts of one memory
    limit = limit or runtime.host_bytes()
    if size * math.prod(config.image.shape) * 12 < IN_DOUBT * limit:
        return
    need = step_bytes(_sized(config, size), mesh) * shared
    if need > limit:
        least = _multiple(config, mesh, 1)
        fits = max(int(SHARE * size * limit / need) // least, 1) * least
        raise ConfigError(f"data.batch_size={size}: a step takes {need / 1e9:,.1f} GB, there are {limit / 1e9:,.1f}; use --config.data.batch_size={fits}, "
                          "or a smaller --config.image.size")  # fmt: skip


def step_bytes(config, mesh: jax.sharding.Mesh) -> int:
    """Returns the bytes of each device that a compiled step takes, with its state and its batch."""
    size = config.data.batch_size
    plan = make_plan(config, mesh, CLASSES, size)
    batch, _ = shapes(mesh, size, config.image.shape, 0, weighted=bool(config.train.class_weights))
    probes = config.train.method == "probe"
    lowered = lower_features(config, plan, mesh) if probes else plan.steps.train.lower(plan.steps.abstract, batch, None)
    found = lowered.compile().memory_analysis()
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def _multiple(config, mesh: jax.sharding.Mesh, least: int) -> int:
    """The smallest batch from `least` on that the devices and the parts of a step share evenly."""
    share = math.lcm(mesh.size, config.train.accumulate)
    return math.ceil(least / share) * share


def _sized(config, size: int):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))
