"""From the cache to the device: batches whose order is a pure function of the seed and the step.

The global batch k holds positions k*B ... k*B+B-1 of an endless stream: epoch after epoch, each a permutation of the
training images drawn from (seed, epoch). Process p of n holds the p-th of n equal blocks of it, so that the global array
is the same, in the same order, for any number of processes. An iterator's whole state is k.
"""

import functools
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax import runtime
from cnnjax.inference import iterate, own_part, put

PART = 64 << 20  # bytes sent to the devices at once


class TrainBatches(grain.sources.RandomAccessDataSource):
    """Element k is this process's part of the global batch k: one fancy index into the memory map."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, *, batch_size: int, seed: int,
                 process_index: int = 0, process_count: int = 1):  # fmt: skip
        self._images, self._labels, self._rows = images, labels, rows
        self._batch_size, self._seed = batch_size, seed
        self._mine = own_part(batch_size, process_index, process_count)
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)
        self.share = self._mine.stop - self._mine.start  # images of a batch that are this process's

    @property
    def nbytes(self) -> int:
        """Bytes of the images of the split."""
        return len(self._rows) * int(np.prod(self._images.shape[1:]))

    def on_devices(self, whole: NamedSharding) -> dict[str, jax.Array]:
        """Copies all images and labels of the split, in its order, to every device, in parts of about `PART` bytes."""
        shape = (len(self._rows), *self._images.shape[1:])
        images = jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=whole)()
        insert = jax.jit(lambda images, part, at: lax.dynamic_update_slice_in_dim(images, part, at, 0), donate_argnums=0)
        step = max(1, PART // int(np.prod(shape[1:])))
        for at in range(0, len(self._rows), step):
            images = insert(images, put(self._images[self._rows[at : at + step]], whole), at)
        return {"image": images, "label": put(self._labels[self._rows], whole)}

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def _draw(self, epoch: int) -> np.ndarray:
        places = np.arange(len(self._rows), dtype=np.uint32)
        return np.random.Generator(np.random.Philox([self._seed, epoch])).permutation(places)

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        """Returns {"image": uint8 [b, size, size, 3], "label": int32 [b]}."""
        rows = self._rows[self.places(k, 1)[0]]
        return {"image": self._images[rows], "label": self._labels[rows]}

    def places(self, k: int, count: int) -> np.ndarray:
        """Returns the positions in the split of the images of the batches k ... k+count-1: int64 [count, b]."""
        positions = np.arange(k * self._batch_size, (k + count) * self._batch_size).reshape(count, -1)[:, self._mine]
        epochs, within = np.divmod(positions, len(self._rows))
        places = np.empty_like(positions)
        for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
            places[epochs == epoch] = self._permutation(epoch)[within[epochs == epoch]]
        return places


class HostFeed:
    """Serves batches one by one, with their images."""

    resident: dict | None = None
    most = 1  # batches at once

    def __init__(self, batches: TrainBatches, mesh: jax.sharding.Mesh):
        self._iterator, self._sharding = iterate(batches), runtime.batched(mesh)

    def take(self, count: int) -> dict[str, jax.Array]:
        """Returns the next batch, {"image": uint8 [b, size, size, 3], "label": int32 [b]}. `count` is 1."""
        return put(next(self._iterator), self._sharding)

    def get_state(self) -> dict[str, int]:
        """Returns {"next_index": number of the next batch}."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that `get_state` has returned."""
        self._iterator.set_state(state)


class DeviceFeed:
    """Serves batches as positions in the images, which are replicated on every device.

    Attributes:
        resident: {"image": uint8 [n, size, size, 3], "label": int32 [n]} of the split.
        most: batches that `take` may be asked for at once.
    """

    def __init__(self, batches: TrainBatches, mesh: jax.sharding.Mesh, most: int):
        self._batches, self._whole, self.most, self._next = batches, runtime.replicated(mesh), most, 0
        self._sharding = _in_rows(mesh)
        self.resident = batches.on_devices(self._whole)

    def take(self, count: int) -> dict[str, jax.Array]:
        """Returns the next `count` batches, {"place": int32 [most, b], of which `count` rows count, "count": int32}."""
        places = np.zeros((self.most, self._batches.share), np.int32)
        places[:count] = self._batches.places(self._next, count)
        self._next += count
        return {"place": put(places, self._sharding), "count": put(np.int32(count), self._whole)}

    def get_state(self) -> dict[str, int]:
        """Returns the position, as `HostFeed` does."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position, as `HostFeed` does."""
        self._next = int(state["next_index"])


Feed = HostFeed | DeviceFeed


def shapes(mesh: jax.sharding.Mesh, batch_size: int, size: int, images: int) -> tuple[dict, dict | None]:
    """Shapes of `take` and `resident` of a feed of one process, with their shardings.

    Args:
        mesh: where.
        batch_size, size: images, pixels.
        images: of the split, for a `DeviceFeed`; 0: for a `HostFeed`.
    """

    def pairs(count: int, sharding: NamedSharding) -> dict:
        return {"image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8, sharding=sharding),
                "label": jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding)}  # fmt: skip

    if not images:
        return pairs(batch_size, runtime.batched(mesh)), None
    whole = runtime.replicated(mesh)
    places = jax.ShapeDtypeStruct((runtime.steps_at_once(mesh), batch_size), jnp.int32, sharding=_in_rows(mesh))
    return {"place": places, "count": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)}, pairs(images, whole)


def _in_rows(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of one batch in each row."""
    return NamedSharding(mesh, PartitionSpec(None, runtime.batched(mesh).spec[0]))
