"""From rows of images to the devices: batches, a prefetching iterator, and the one crossing."""

from collections.abc import Callable

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

PART = 64 << 20  # bytes sent to the devices at once


def own_part(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the rows of a global batch that are those of one process. Raises ValueError for a batch that does not divide."""
    if batch_size % process_count:
        raise ValueError(f"a batch of {batch_size} does not divide among {process_count} processes")
    mine = batch_size // process_count
    return slice(process_index * mine, (process_index + 1) * mine)


class EvalBatches(grain.sources.RandomAccessDataSource):
    """Serves every row once and in order; the last batch is filled up with zeros."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, *, batch_size: int, process_index: int = 0,
                 process_count: int = 1):  # fmt: skip
        self._images, self._rows, self._batch_size = images, rows, batch_size
        self._mine = own_part(batch_size, process_index, process_count)

    @property
    def shape(self) -> tuple[int, ...]:
        """Batches, images of a batch of all processes, height, width, colours."""
        return len(self), self._batch_size, *self._images.shape[1:]

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __getitem__(self, k: int) -> np.ndarray:
        """Returns batch k, or this process's part of it: of images uint8 [b, size, size, 3]."""
        rows = self._rows[k * self._batch_size : (k + 1) * self._batch_size]
        batch = np.zeros((self._batch_size, *self._images.shape[1:]), self._images.dtype)
        batch[: len(rows)] = self._images[rows]
        return batch[self._mine]


def iterate(batches: grain.sources.RandomAccessDataSource) -> grain.DatasetIterator:
    """Returns an iterator that prefetches in one thread; its state, the next index, can be saved and set."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


def put(batch, sharding: NamedSharding):
    """Brings a tree of this process's host arrays to the devices, as global arrays divided along the batch.

    Nothing else crosses from the host to a device.
    """
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def store(read: Callable[[int, int], np.ndarray], shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """Brings images to the devices in parts of about `PART` bytes, so that the host never holds a copy of all.

    Args:
        read: (begin, end) along the first axis -> this process's images, uint8.
        shape: of all of them together.
        sharding: leaves the first axis whole.
    """
    images = jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=sharding)()
    insert = jax.jit(lambda images, part, at: lax.dynamic_update_slice_in_dim(images, part, at, 0), donate_argnums=0)
    step = max(1, PART // int(np.prod(shape[1:])))
    for at in range(0, shape[0], step):
        images = insert(images, put(read(at, min(at + step, shape[0])), sharding), at)
    return images
