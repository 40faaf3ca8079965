"""From the cache to the device: batches whose order is a pure function of the seed and the step.

The global batch k holds positions k*B ... k*B+B-1 of an endless stream: epoch after epoch, each a permutation of the
training images drawn from (seed, epoch). Process p of n holds the p-th of n equal blocks of it, so that the global array
is the same, in the same order, for any number of processes. An iterator's whole state is k.
"""

import functools
import math
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax import runtime
from cnnjax.data import SHARDS, Crop, Dataset, EncodedImages
from cnnjax.inference import iterate, own_part, put, store
from cnnjax.streams import DataStream


class TrainBatches(grain.sources.RandomAccessDataSource):
    """Element k is this process's part of the global batch k: one index into the images.

    In an epoch of encoded images the i-th of equal parts of each batch comes from the i-th part of the shards, so that a process reads
    its own shards; but for the few images that make the parts equal.

    Args:
        images, labels: of the data set, uint8 [all, size, size, 3] and int32 [all].
        rows: int64 rows of the training images.
        batch_size: images of a global batch.
        seed: of the order.
        balanced: every class has the same share of an epoch, which is as long as ever: of large classes some images are left out
            of it, those of small ones come several times.
        weights: float32 [classes], of the losses of their images; None: no weights.
        crop: of encoded images, cut out before the resize; None: images are whole.
        process_index, process_count: which part of how many.
    """

    def __init__(self, images: np.ndarray | EncodedImages, labels: np.ndarray, rows: np.ndarray, *, batch_size: int, seed: int,
                 balanced: bool = False, weights: np.ndarray | None = None, crop: Crop | None = None, process_index: int = 0,
                 process_count: int = 1):  # fmt: skip
        self._balanced, self._weights, self._crop = balanced, weights, crop
        self._images, self._labels, self._rows = images, labels, rows
        self._batch_size, self._seed = batch_size, seed
        self._mine = own_part(batch_size, process_index, process_count)
        self._parts = math.gcd(batch_size, SHARDS) if isinstance(images, EncodedImages) else 1
        self._permutation = functools.lru_cache(maxsize=2)(self._order)
        self.share = self._mine.stop - self._mine.start  # images of a batch that are this process's

    @property
    def nbytes(self) -> int:
        """Bytes of the images of the split."""
        return len(self._rows) * int(np.prod(self._images.shape[1:]))

    def on_devices(self, whole: NamedSharding) -> dict[str, jax.Array]:
        """Copies all images and labels of the split, in its order, to every device."""
        shape = (len(self._rows), *self._images.shape[1:])
        images = store(lambda begin, end: self._images[self._rows[begin:end]], shape, whole)
        return {"image": images, **{name: put(values, whole) for name, values in self._targets(self._rows).items()}}

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def _order(self, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox([self._seed, epoch]))
        drawn = self._draw(random)
        if self._parts == 1:
            return drawn
        slots = (np.arange(len(drawn)) + epoch * len(drawn)) % self._batch_size  # the place in its batch
        parts = self._images.shards[self._rows[drawn]].astype(int) * self._parts // SHARDS
        return dealt(random, drawn, parts, slots * self._parts // self._batch_size)

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        places = np.arange(len(self._rows), dtype=np.uint32)
        if not self._balanced:
            return random.permutation(places)
        labels = self._labels[self._rows]
        classes = random.permutation(np.unique(labels))  # those in front have one image more where shares are not whole
        shares = [(len(places) + len(classes) - 1 - i) // len(classes) for i in range(len(classes))]
        return random.permutation(np.concatenate([
            _repeated(random, places[labels == label], share) for label, share in zip(classes, shares, strict=True)
        ]))  # fmt: skip

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        """Returns {"image": uint8 [b, size, size, 3], "label": int32 [b]}, and "weight", float32 [b], where there are weights."""
        rows = self._rows[self.places(k, 1)[0]]
        return {"image": self._seen(rows, k), **self._targets(rows)}

    def _seen(self, rows: np.ndarray, k: int) -> np.ndarray:
        if self._crop is None:
            return self._images[rows]
        random = np.random.Generator(np.random.Philox([self._seed, k, DataStream.CROPS]))
        return self._images.crops(rows, self._crop, self._crop.draw(random, self._batch_size)[self._mine])

    def _targets(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        labels = self._labels[rows]
        return {"label": labels} if self._weights is None else {"label": labels, "weight": self._weights[labels]}

    def places(self, k: int, count: int) -> np.ndarray:
        """Returns the positions in the split of the images of the batches k ... k+count-1: int64 [count, b]."""
        positions = np.arange(k * self._batch_size, (k + count) * self._batch_size).reshape(count, -1)[:, self._mine]
        epochs, within = np.divmod(positions, len(self._rows))
        places = np.empty_like(positions)
        for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
            places[epochs == epoch] = self._permutation(epoch)[within[epochs == epoch]]
        return places


def _repeated(random: np.random.Generator, places: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` of `places`: each as often as any other, or once more."""
    rounds = [random.permutation(places) for _ in range(-(-count // len(places)))]
    return np.concatenate(rounds)[:count]


def dealt(random: np.random.Generator, drawn: np.ndarray, parts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns `drawn` in another order, in which the part of the i-th is `wanted[i]` as far as there are as many.

    Args:
        random: draws which slots of a part are left to what other parts have too much of.
        drawn: int [n].
        parts: int [n], the part of each.
        wanted: int [n], the part that each slot wants.
    """
    out, slots_left, left = np.empty_like(drawn), [], []
    for part in range(int(max(parts.max(), wanted.max())) + 1):
        own, slots = drawn[parts == part], random.permutation(np.flatnonzero(wanted == part))
        count = min(len(own), len(slots))
        out[slots[:count]] = own[:count]
        left.append(own[count:])
        slots_left.append(slots[count:])
    out[np.concatenate(slots_left)] = random.permutation(np.concatenate(left))
    return out


def batches_of(config, data: Dataset, batch_size: int, *, weights: np.ndarray | None = None, process_index: int = 0,
               process_count: int = 1) -> TrainBatches:  # fmt: skip
    """Returns the batches of a run's training images; `weights` and the process as for `TrainBatches`."""
    encoded, augment = config.data.cache == "encoded", config.augment
    crop = Crop(augment.crop_area, augment.crop_ratio) if encoded and augment.crop_area < 1 else None
    return TrainBatches(data.images, data.labels, data.splits["train"], batch_size=batch_size, seed=config.seed,
                        balanced=config.data.sampling == "balanced", weights=weights, crop=crop, process_index=process_index,
                        process_count=process_count)  # fmt: skip


class HostFeed:
    """Serves batches one by one, with their images."""

    resident: dict | None = None
    most = 1  # batches at once

    def __init__(self, batches: TrainBatches, mesh: jax.sharding.Mesh):
        self._iterator, self._sharding = iterate(batches), runtime.batched(mesh)

    def take(self, count: int) -> dict[str, jax.Array]:
        """Returns the next batch, as `TrainBatches` gives it. `count` is 1."""
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
        resident: {"image": uint8 [n, size, size, 3], "label": int32 [n]} of the split, with "weight" where there are weights.
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


def shapes(mesh: jax.sharding.Mesh, batch_size: int, shape: tuple[int, int], images: int, *, weighted: bool = False
           ) -> tuple[dict, dict | None]:  # fmt: skip
    """Shapes of `take` and `resident` of a feed of one process, with their shardings.

    Args:
        mesh: where.
        batch_size: images of a step.
        shape: of an image, height and width in pixels.
        images: of the split, for a `DeviceFeed`; 0: for a `HostFeed`.
        weighted: classes have weights.
    """

    def pairs(count: int, sharding: NamedSharding) -> dict:
        facts = {"image": ((count, *shape, 3), jnp.uint8), "label": ((count,), jnp.int32)}
        facts |= {"weight": ((count,), jnp.float32)} if weighted else {}
        return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in facts.items()}

    if not images:
        return pairs(batch_size, runtime.batched(mesh)), None
    whole = runtime.replicated(mesh)
    places = jax.ShapeDtypeStruct((runtime.steps_at_once(mesh), batch_size), jnp.int32, sharding=_in_rows(mesh))
    return {"place": places, "count": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)}, pairs(images, whole)


def _in_rows(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of one batch in each row."""
    return NamedSharding(mesh, PartitionSpec(None, runtime.batched(mesh).spec[0]))
