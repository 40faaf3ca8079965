"""The step of a run compiled for devices that are not here: its memory, its work, and what moves between devices."""

import dataclasses
import math
import re
from collections.abc import Iterator

import jax

from cnnjax import models, runtime
from cnnjax.errors import ConfigError
from cnnjax.training import feeds
from cnnjax.training.finetuning import tuned_optimizer
from cnnjax.training.steps import compile_steps

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
CALL = re.compile(rf"= (?P<shapes>\(?[a-z].*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind in a step.

    Attributes:
        count: how many.
        bytes: of their results together, on each device.
        moved: bytes that leave a device, by a ring.
    """

    count: int = 0
    bytes: int = 0
    moved: float = 0.0


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step compiled for other devices; memory and operations are of one of them.

    Attributes:
        batch_size: images of a step, on all of them.
        arguments: bytes of the state and the batch.
        temporaries: bytes of everything between: activations, above all.
        operations: additions and multiplications of a step.
        collectives: kind -> what moves between devices.
    """

    batch_size: int
    arguments: int
    temporaries: int
    operations: float
    collectives: dict[str, Collective]

    @property
    def memory(self) -> int:
        """Bytes of a device that a step takes; each of them is written and read at least once."""
        return self.arguments + self.temporaries

    def fitting(self, memory: int, share: int) -> int:
        """Returns the batch, a multiple of `share`, that would take so many bytes of a device: reckoned, as if all but the state grew with it."""
        return int(self.batch_size * max(memory - self.arguments, 0) / max(self.temporaries, 1)) // share * share


def compile_ahead(config, mesh: jax.sharding.Mesh, classes: int, batch_size: int) -> Compiled:
    """Compiles the step of a run for a mesh; nothing is computed.

    Args:
        config: of the run.
        mesh: its devices need not be here.
        classes: how many.
        batch_size: images of a step, a multiple of the devices and of `train.accumulate`.

    Raises:
        ConfigError: it does not compile, because it does not fit, say; the message has the compiler's first line.
    """
    network = models.network(config, classes, runtime.ops(config.runtime, runtime.platform_of(mesh)))
    steps = compile_steps(network, tuned_optimizer(config, network, lambda step: 1e-3, 1), mesh, config)
    shapes = feeds.shapes(mesh, batch_size, config.image.shape, 0, weighted=bool(config.train.class_weights))
    try:
        compiled = steps.train.lower(steps.abstract, *shapes).compile()
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"the step does not compile for {mesh.size} devices with data.batch_size={batch_size}: {_readable(error)}"
        ) from None
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Compiled(
        batch_size, memory.argument_size_in_bytes, memory.temp_size_in_bytes, cost.get("flops", math.nan), collectives(compiled.as_text()),
    )  # fmt: skip


def _readable(error: Exception) -> str:
    """Returns what a compiler says first, and of memory how much it wants."""
    text = str(error)
    used = re.search(
        r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)|Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", text
    )
    if not used:
        return text.splitlines()[0][:200]
    wanted, there = filter(None, used.groups())
    return (f"it wants {wanted}B of {there}B of memory; use a smaller --config.data.batch_size, --config.train.precision=bfloat16, "
            "--config.train.accumulate=4, or a topology with more chips")  # fmt: skip


def collectives(text: str) -> dict[str, Collective]:
    """Returns the collectives of a compiled program, which is given as HLO's text: kind -> how many, and their bytes."""
    found: dict[str, Collective] = {}
    for kind, size, group in _calls(text):
        moved = {
            "all-reduce": 2 * size * (group - 1) / group,
            "reduce-scatter": size * (group - 1),
            "collective-permute": size,
        }.get(kind, size * (group - 1) / group)
        so_far = found.get(kind, Collective())
        found[kind] = Collective(so_far.count + 1, so_far.bytes + size, so_far.moved + moved)
    return found


def _calls(text: str) -> Iterator[tuple[str, int, int]]:
    """Yields kind, bytes of the result and devices of a group, of each collective among several devices."""
    every = int(found[1]) if (found := re.search(r"num_partitions=(\d+)", text)) else 1
    for line in text.splitlines():
        call = CALL.search(line)
        if not call:
            continue
        sizes = [
            math.prod(map(int, filter(None, numbers.split(",")))) * BYTES.get(kind, 4)
            for kind, numbers in SHAPE.findall(call["shapes"])
        ]
        if call["start"] and call["kind"] != "all-reduce":  # its operands, its results, and some counters
            sizes = [max(sizes)]
        groups = GROUPS.search(call["rest"])
        size = int(groups[1]) if groups and groups[1] else len(groups[2].split(",")) if groups and groups[2] else every
        if size > 1 or call["kind"] == "collective-permute":
            yield call["kind"], sum(sizes), size
