"""Compiled networks with their weights: images in, logits out."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from cnnjax import data as data_lib
from cnnjax import runtime
from cnnjax.inference.batches import EvalBatches, iterate, put
from cnnjax.models import Layered, Network, averaged

# Evaluation goes in batches of up to so many of training's, of up to so many pixels together: without gradients there is
# memory for them, and fewer batches cost less around them.
BATCHES = 4
PIXELS = 2**21


def evaluated(params: dict, stats: dict, ema: dict) -> dict:
    """Returns {"params", "stats"} to evaluate and predict with: their moving averages, where there are some."""
    if not ema:
        return {"params": params, "stats": stats}
    found = traverse_util.flatten_dict(ema)
    return {
        name: traverse_util.unflatten_dict(
            {path: found.get(path, own) for path, own in traverse_util.flatten_dict(tree).items()}
        )
        for name, tree in (("params", params), ("stats", stats))
    }


def logits_step(model: dict, images: jax.Array, *, network: Network) -> jax.Array:
    """Computes logits without dropout; a pure function.

    Args:
        model: {"params", "stats"}.
        images: uint8 or float32 [b, size, size, 3] in [0, 255].
        network: its structure.

    Returns:
        float32 [b, outputs]; the mean over the views of the images that the preprocessing asks for.
    """
    return _logits(nnx.merge(network.eval_def, model["params"], model["stats"]), images)


def _logits(model: Layered, images: jax.Array) -> jax.Array:
    return averaged(model, images, model.preprocessing.views)


def compile_logits(network: Network, mesh: jax.sharding.Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns `logits_step` compiled for a mesh; the logits are replicated on every device."""
    return _compiled(network, mesh, _logits)


def compile_plain(network: Network, mesh: jax.sharding.Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns the same for images as they are, without other views of them."""
    return _compiled(network, mesh, lambda model, images: model(images))


def compile_features(network: Network, mesh: jax.sharding.Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns the network up to its last layer, compiled as by `compile_logits`: float32 [b, numbers]."""
    return _compiled(network, mesh, lambda model, images: model.before_last(images).astype(jnp.float32))


def compile_last(network: Network, mesh: jax.sharding.Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns the last layer alone, compiled as by `compile_logits`: of numbers from `compile_features` the logits."""
    return _compiled(network, mesh, lambda model, features: model.last(features))


def _compiled(network: Network, mesh: jax.sharding.Mesh, part: Callable) -> Callable[[dict, jax.Array], jax.Array]:
    return jax.jit(lambda model, x: part(nnx.merge(network.eval_def, model["params"], model["stats"]), x),
                   in_shardings=(None, runtime.batched(mesh)), out_shardings=runtime.replicated(mesh),
                   compiler_options=runtime.compiler_options(runtime.platform_of(mesh)))  # fmt: skip


def batch_of_rows(batch_size: int, side: int, mesh: jax.sharding.Mesh) -> int:
    """Returns the images of a batch without gradients, where training takes `batch_size` of `side` pixels."""
    batch_size = -(-batch_size // mesh.size) * mesh.size
    return batch_size * min(max(PIXELS // (batch_size * side**2), 1), BATCHES)


@dataclasses.dataclass(frozen=True)
class Engine:
    """A compiled network with its weights.

    Attributes:
        run: logits function from `compile_logits`.
        model: {"params", "stats"} on the mesh.
        mesh: its devices.
        network: its structure, for maps of where it looks; None where there is not one.
    """

    run: Callable
    model: dict
    mesh: jax.sharding.Mesh
    network: Network | None = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, 3] -> float32 [n, outputs]; padded to a power of two that the devices divide."""
        count = 1 << max(len(images) - 1, 0).bit_length()
        count = -(-count // self.mesh.size) * self.mesh.size
        padded = images
        if count > len(images):
            padded = np.zeros((count, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
        if runtime.is_distributed():
            padded = put(padded, runtime.batched(self.mesh))  # else quicker by the call itself
        return np.asarray(self.run(self.model, padded))[: len(images)]

    def logits_of_rows(self, images: np.ndarray, rows: np.ndarray, batch_size: int,
                       advance: Callable[[int], None] = lambda n: None) -> np.ndarray:  # fmt: skip
        """Logits of `rows` of the cache, each once and in order: float32 [rows, outputs], mapped. `batch_size` is that of
        training."""
        outputs = self.outputs_of_rows(images, rows, batch_size, advance)
        return data_lib.mapped(outputs, np.float32).reshape(len(rows), -1)

    def outputs_of_rows(self, images: np.ndarray, rows: np.ndarray, batch_size: int,
                        advance: Callable[[int], None] = lambda n: None) -> Iterator[np.ndarray]:  # fmt: skip
        """Yields the outputs of `rows` in their order, float32 [b, outputs] of each batch; arguments as of `logits_of_rows`."""
        batch_size = batch_of_rows(batch_size, images.shape[1], self.mesh)
        batches = EvalBatches(images, rows, batch_size=batch_size, process_index=jax.process_index(),
                                       process_count=jax.process_count())  # fmt: skip
        pending = None
        for batch in iterate(batches):
            current = self.run(self.model, put(batch, runtime.batched(self.mesh)))
            # Fetched one batch late, so that the device always has work.
            if pending is not None:
                yield np.ascontiguousarray(pending, np.float32)
                advance(batch_size)
            pending = current
        last = len(rows) - batch_size * (len(batches) - 1)
        yield np.ascontiguousarray(pending, np.float32)[:last]
        advance(last)
