"""A split whose images are stored on the devices, which evaluate it without the host."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax import runtime
from cnnjax.inference.batches import EvalBatches, store
from cnnjax.inference.engine import batch_of_rows
from cnnjax.models import Network

Compiled = Callable[[dict, jax.Array], Sequence[jax.Array]]


def compile_stored(network: Network, mesh: jax.sharding.Mesh) -> Compiled:
    """Returns the network compiled for stored batches, uint8 [batches, b, size, size, 3] -> float32 [b, outputs] of each, replicated.

    All batches are one dispatch. A CPU has one for each batch, because XLA compiles convolutions inside loops badly there.
    """
    options = {
        "out_shardings": runtime.replicated(mesh),
        "compiler_options": runtime.compiler_options(runtime.platform_of(mesh)),
    }

    def one(model: dict, images: jax.Array) -> jax.Array:
        images = lax.with_sharding_constraint(images, runtime.batched(mesh))
        return nnx.merge(network.eval_def, model["params"], model["stats"])(images)

    if runtime.steps_at_once(mesh) > 1:
        return jax.jit(lambda model, images: lax.map(lambda batch: one(model, batch), images), **options)
    run = jax.jit(lambda model, images, k: one(model, lax.dynamic_index_in_dim(images, k, keepdims=False)), **options)
    return lambda model, images: [run(model, images, np.int32(k)) for k in range(len(images))]


class Stored:
    """The images of a split on the devices, in the batches of its evaluation, each divided among all devices.

    Args:
        images: of the cache, uint8 [all, size, size, 3].
        rows: of the split.
        batch_size: that of training.
        mesh: the devices.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, batch_size: int, mesh: jax.sharding.Mesh):
        batches = EvalBatches(images, rows, batch_size=batch_of_rows(batch_size, images.shape[1], mesh),
                              process_index=jax.process_index(), process_count=jax.process_count())  # fmt: skip
        in_rows = NamedSharding(mesh, PartitionSpec(None, runtime.batched(mesh).spec[0]))
        self._count = len(rows)
        self._images = store(lambda begin, end: np.stack([batches[k] for k in range(begin, end)]), batches.shape, in_rows)

    def logits(self, run: Compiled, model: dict) -> np.ndarray:
        """Returns the logits of all images in their order, float32 [images, outputs], fetched once; `run` is from `compile_stored`."""
        logits = np.asarray(jax.device_get(run(model, self._images)), np.float32)
        return logits.reshape(-1, logits.shape[-1])[: self._count]


def stored_bytes(images: int, shape: tuple[int, int], batch_size: int, mesh: jax.sharding.Mesh) -> int:
    """Returns the bytes of each device that `Stored` takes for so many images of height and width `shape`, padding included."""
    batch = batch_of_rows(batch_size, shape[0], mesh)
    return -(-images // batch) * batch // mesh.size * shape[0] * shape[1] * 3
