"""Processes of `test_contract.py`: all rows of the table, on the threads and devices that a process has."""

import functools
import hashlib
import json
from types import SimpleNamespace

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from kernel_rows import Case, Kernel
from kernel_table import COMPOSITIONS, CONV, KERNELS, NORM, conv, conv_case, norm, norm_case, weights

from cnnjax.kernels import Block, CpuOps

ROWS = KERNELS | COMPOSITIONS


def sequence(ops, images, w1, b1, w2, b2, w3, b3):
    """Three convolutions, whose gradients threads share image by image where there are more threads than groups of images."""
    blocks = [Block(w1, b1, 1, 2), Block(w2, b2, 1, 0), Block(w3, b3, 0, 1)]
    return (ops.conv_blocks(images, blocks, dtype=w1.dtype),)


# What threads share otherwise where there are more than 32.
BEYOND = {
    "sequence": Kernel(sequence, ("conv_forward", "conv_backward"), (), grads=tuple(range(7)),
                       many=Case(((70, 20, 13, 16), *((weights(3, 16, 16)), (16,)) * 3), {})),
    "stem": Kernel(conv, CONV, (), many=conv_case((16, 20, 26, 3), 64, 7, 2), grads=(1,)),
    "large norm": Kernel(norm, cases=(), many=norm_case((70, 30, 30, 32), "relu", False), grads=(0, 1, 2), **NORM),
}  # fmt: skip
BATCH = PartitionSpec(("data", "fsdp"))


def compiled(kernel: Kernel, arrays: list[jax.Array]):
    return jax.jit(functools.partial(kernel.results, CpuOps(), kernel.many)).lower(*arrays).compile()


def print_digests():
    """Prints a digest of the results of each row."""
    digests = {}
    for name, kernel in (ROWS | BEYOND).items():
        drawn = kernel.drawn(kernel.many)
        results = compiled(kernel, drawn)(*drawn)
        digests[name] = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in results)).hexdigest()
    print(json.dumps(digests))


def mesh_of(count: int) -> jax.sharding.Mesh:
    shape = count // min(count, 2), min(count, 2)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:count])


def spec(kernel: Kernel, i: int) -> PartitionSpec:
    """Returns the division of a drawn array; the last is the gradient of the result."""
    is_batch = i in kernel.batch or i == len(kernel.many.shapes)
    return BATCH if is_batch else PartitionSpec("fsdp") if i in kernel.sharded else PartitionSpec()


def on_mesh(kernel: Kernel, mesh: jax.sharding.Mesh) -> SimpleNamespace:
    """Results on the devices of a mesh, and what the program says of them."""
    drawn = [
        jax.device_put(array, NamedSharding(mesh, spec(kernel, i))) for i, array in enumerate(kernel.drawn(kernel.many))
    ]
    step = compiled(kernel, drawn)
    results, text = step(*drawn), step.as_text()
    is_divided = results[0].sharding.is_equivalent_to(NamedSharding(mesh, BATCH), results[0].ndim)
    return SimpleNamespace(results=[np.asarray(array) for array in results], is_divided=is_divided,
                           gathered=text.count(" all-gather("), summed=text.count(" all-reduce("))  # fmt: skip


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def is_same_by_shard_map(kernel: Kernel) -> bool:
    """Whether four devices that each compute a part of the batch give the bits that one gives."""
    *arrays, _ = kernel.drawn(kernel.many)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    places = tuple(PartitionSpec("data") if i in kernel.batch else PartitionSpec() for i in range(len(arrays)))

    def call(*arrays):
        return kernel.call(CpuOps(), *arrays, **kernel.many.options)[0]

    parts = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=places, out_specs=PartitionSpec("data"), check_vma=False))
    return bool((np.asarray(parts(*arrays)) == np.asarray(jax.jit(call)(*arrays))).all())


def print_devices():
    """Prints what each row with a batch gives on 1, 2 and 8 devices."""
    found = {}
    for name, kernel in ROWS.items():
        if kernel.batch:
            one, *several = (on_mesh(kernel, mesh_of(count)) for count in (1, 2, 8))
            found[name] = {
                "differences": [max(map(difference, more.results, one.results)) for more in several],
                "divided": [more.is_divided for more in several],
                "gathered": [one.gathered, *(more.gathered for more in several)],
                "summed": [one.summed, *(more.summed for more in several)],
                "is_same": not kernel.is_alone or is_same_by_shard_map(kernel),
            }
    print(json.dumps(found))
