"""Features of a run's images by its frozen network: those that are not in the cache are computed."""

import functools
import hashlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import runtime
from cnnjax.augmentation import Custom, augment
from cnnjax.config import split_own
from cnnjax.data import Dataset, FeatureFiles
from cnnjax.errors import Stopped, TrainingError
from cnnjax.inference import Engine
from cnnjax.models import digest_of
from cnnjax.progress import Progress, counted, duration
from cnnjax.streams import Stream
from cnnjax.training.plan import Plan
from cnnjax.training.steps import find_custom
from cnnjax.training.stopwatch import Stopwatch

FORMAT = 1  # part of the key: raise it when the same weights give other features


class Features:
    """The inputs of the last layer of a frozen network.

    Args:
        config: of the run.
        plan: compiled network.
        mesh: its devices.
        model: {"params", "stats"} of the network.
        data: images and splits.
        progress: gets a bar for each view.
        stop: polled while features are computed.
    """

    def __init__(self, config, plan: Plan, mesh: jax.sharding.Mesh, model: dict, data: Dataset, progress: Progress, stop):
        self._config, self._mesh, self._data, self._progress, self._stop = config, mesh, data, progress, stop
        self._engine = Engine(plan.steps.features, model, mesh)
        last = plan.network.model.layers[-1].module
        self.width = plan.network.shapes[0][last]["kernel"].shape[0]
        own = {
            name: {path: tree for path, tree in part.items() if (name, path) != ("params", last)}
            for name, part in model.items()
        }
        digest = digest_of(own, lambda array: np.asarray(jax.device_put(array, runtime.replicated(mesh))))
        self._files = [
            FeatureFiles(config.data.cache_dir, _key(config, plan, data, digest, view)) for view in range(config.probe.views)
        ]

    def compute(self, stopwatch: Stopwatch) -> None:
        """Computes the features that are not in the cache, and says how many images that were, and how fast.

        Raises:
            Stopped: `stop` was true; those that are done are kept.
            TrainingError: the network gives numbers that are not finite.
        """
        done, start = 0, time.monotonic()
        for view, files in enumerate(self._files):
            rows = self._data.used if view == 0 else np.sort(self._data.splits["train"])
            images = Views(self._config, self._data.images, view) if view else self._data.images
            missing = rows[self._missing(files, rows)]
            if not len(missing):
                continue
            with self._progress.task(f"features{f' of view {view}' if view else ''}", len(missing), "images") as advance:
                for task in files.tasks(missing):
                    with runtime.all_or_none():
                        self._compute(files, images, task, advance)
            done += len(missing)
        seconds = time.monotonic() - start
        total = len(self._data.used) + (len(self._files) - 1) * len(self._data.splits["train"])
        if done:
            stopwatch.train_seconds += seconds
            stopwatch.train_images += done
            more = f", those of {total - done:,} more were in the cache" if total > done else ""
            self._progress.message(
                f"  features of {counted(done, 'image')} in {duration(seconds)}, {done / seconds:,.0f} images/s{more}"
            )
        else:
            self._progress.message(f"  features of {counted(total, 'image')} are in the cache")

    def of(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Returns the features of `rows`: float32 [rows, numbers]; of processes beside the main one zeros."""
        if not runtime.is_main():
            return np.zeros((len(rows), self.width), np.float32)
        return self._files[view].read(rows, self.width)

    def _missing(self, files: FeatureFiles, rows: np.ndarray) -> np.ndarray:
        """Returns whether the main process has no features of each of `rows`: bool [rows]."""
        have = np.zeros(len(rows), bool)
        if runtime.is_main():
            have = np.concatenate([np.isfinite(files.read(part, self.width)).all(1) for part in files.tasks(rows)])
        return ~runtime.from_main(have)

    def _compute(self, files: FeatureFiles, images: "np.ndarray | Views", rows: np.ndarray, advance) -> None:
        def advance_or_stop(count: int) -> None:
            advance(count)
            if not runtime.is_distributed():
                self._check_stop()

        if runtime.is_distributed():
            self._check_stop()
        found = self._engine.logits_of_rows(images, rows, self._config.data.batch_size, advance_or_stop)
        if not np.isfinite(found).all():
            first = self._data.ids[int(rows[int(np.flatnonzero(~np.isfinite(found).all(1))[0])])]
            raise TrainingError(f"what the network gives its last layer is not finite, as for {first!r}; use other weights, or "
                                "--config.train.precision=float32")  # fmt: skip
        if runtime.is_main():
            files.add(rows, found)

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped("stopped while features were computed, those that are done are kept; the same command continues")


class Views:
    """Augmented images of a cache, of which rows are taken as of an array: uint8 [rows, height, width, 3].

    The view of an image depends on the seed, the number of the view and the row alone.
    """

    def __init__(self, config, images: np.ndarray, view: int):
        self._config, self._images, self._view = config, images, view
        self.shape, self.dtype = images.shape, images.dtype
        self._custom = find_custom(config.augment.custom)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        count = 1 << (len(rows) - 1).bit_length()  # few programs, whatever the number of rows
        rows, used = np.resize(rows, count), len(rows)
        drawn = _views(self._view, rows.astype(np.int32), self._images[rows], seed=self._config.seed, section=self._config.augment,
                       custom=self._custom)  # fmt: skip
        return np.asarray(drawn)[:used]


@functools.partial(jax.jit, static_argnames=("seed", "section", "custom"))
def _views(view: jax.Array, rows: jax.Array, images: jax.Array, *, seed: int, section, custom: Custom | None) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), Stream.VIEWS), view)

    def one(row: jax.Array, image: jax.Array) -> jax.Array:
        return augment(jax.random.fold_in(key, row), image[None], section, custom=custom)[0]

    return jnp.round(jnp.clip(jax.vmap(one)(rows, images), 0, 255)).astype(jnp.uint8)


def _key(config, plan: Plan, data: Dataset, weights: str, view: int) -> str:
    """The name of the features of a view: a hash of the images, of the network and its weights, and of the augmentation."""
    section = {name: value for name, value in config.model.to_dict().items() if name != "weights"}
    own = split_own(config.model.name)
    code = hashlib.sha256(own[0].read_bytes()).hexdigest() if own else ""
    parts = [FORMAT, data.key, plan.network.model.preprocessing.to_dict(), section, code, config.train.precision, weights]
    if view:
        custom = split_own(config.augment.custom)
        code = hashlib.sha256(custom[0].read_bytes()).hexdigest() if custom else ""
        parts += [view, config.seed, config.augment.to_dict(), code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
