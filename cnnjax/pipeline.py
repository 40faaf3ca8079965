"""From the cache to the device: Grain batches whose order is a pure function of the seed and the step.

The global batch k holds positions k*B ... k*B+B-1 of an endless stream: epoch after epoch, each a permutation of the
training images drawn from (seed, epoch). Process p of n holds the p-th of n equal blocks of it, so that the global array
is the same, in the same order, for any number of processes. An iterator's whole state is k.
"""

import functools
import sys

import grain
import jax
import numpy as np


def _block(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise ValueError(f"a batch of {batch_size} does not divide among {process_count} processes")
    mine = batch_size // process_count
    return slice(process_index * mine, (process_index + 1) * mine)


class TrainBatches(grain.sources.RandomAccessDataSource):
    """Element k is this process's part of the global batch k: one fancy index into the memory map."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, *, batch_size: int, seed: int,
                 process_index: int = 0, process_count: int = 1):  # fmt: skip
        self._images, self._labels, self._rows = images, labels, rows
        self._batch_size, self._seed = batch_size, seed
        self._mine = _block(batch_size, process_index, process_count)
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox([self._seed, epoch])).permutation(len(self._rows))

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        """{"image": uint8 [b, size, size, 3], "label": int32 [b]}."""
        positions = np.arange(k * self._batch_size, (k + 1) * self._batch_size)[self._mine]
        epochs, within = np.divmod(positions, len(self._rows))
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = self._rows[self._permutation(int(epoch))[within[epochs == epoch]]]
        return {"image": self._images[rows], "label": self._labels[rows]}


class EvalBatches(grain.sources.RandomAccessDataSource):
    """Every row once and in order; the last batch is filled up with zeros."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, *, batch_size: int, process_index: int = 0,
                 process_count: int = 1):  # fmt: skip
        self._images, self._rows, self._batch_size = images, rows, batch_size
        self._mine = _block(batch_size, process_index, process_count)

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __getitem__(self, k: int) -> np.ndarray:
        """uint8 [b, size, size, 3]."""
        rows = self._rows[k * self._batch_size : (k + 1) * self._batch_size]
        batch = np.zeros((self._batch_size, *self._images.shape[1:]), np.uint8)
        batch[: len(rows)] = self._images[rows]
        return batch[self._mine]


def iterate(batches: grain.sources.RandomAccessDataSource) -> grain.DatasetIterator:
    """An iterator that prefetches in one thread; its state, the next index, can be saved and set."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


def put(batch, sharding: jax.sharding.NamedSharding):
    """Host arrays of this process -> global device arrays, divided along the batch. The only crossing to a device."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
