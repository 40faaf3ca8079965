"""The batch size that `data.batch_size=auto` stands for."""

import dataclasses
import math

import jax

from cnnjax import runs, runtime
from cnnjax.progress import Progress
from cnnjax.training.feeds import shapes
from cnnjax.training.plan import make_plan

USUAL = 32  # images of a step on a CPU, whose memory sets no limit, and which larger batches do not make faster
MOST = 512  # from there on a small rate of updates costs more than the device gains
SHARE = 0.8  # of a device's memory that a step may take
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


def step_bytes(config, mesh: jax.sharding.Mesh) -> int:
    """Returns the bytes of each device that a compiled step takes, with its state and its batch."""
    size = config.data.batch_size
    plan = make_plan(config, mesh, CLASSES, size)
    batch, _ = shapes(mesh, size, config.image.shape, 0, weighted=bool(config.train.class_weights))
    found = plan.steps.train.lower(plan.steps.abstract, batch, None).compile().memory_analysis()
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def _multiple(config, mesh: jax.sharding.Mesh, least: int) -> int:
    """The smallest batch from `least` on that the devices and the parts of a step share evenly."""
    share = math.lcm(mesh.size, config.train.accumulate)
    return math.ceil(least / share) * share


def _sized(config, size: int):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))
