"""The augmentation of a run by itself: to look at and to time."""

import statistics
import time

import jax
import numpy as np

from cnnjax import runtime
from cnnjax.data import Dataset
from cnnjax.inference import put
from cnnjax.training.feeds import batches_of
from cnnjax.training.steps import compile_augmentation


class Showcase:
    """Applies a run's augmentation outside of the step.

    Args:
        config: of the run.
        data: images and splits.
        batch_size: images of a step.
        mesh: devices of the run.
    """

    def __init__(self, config, data: Dataset, batch_size: int, mesh: jax.sharding.Mesh):
        self._augment = compile_augmentation(config, runtime.ops(config.runtime, runtime.platform_of(mesh)))
        self._config, self._data, self._batch_size, self._mesh = config, data, batch_size, mesh

    def picture(self, step: int) -> np.ndarray:
        """Returns up to 16 images of the first batch as the update after `step` updates would show them: uint8 [h, w, 3]."""
        batch = batches_of(self._config, self._data, self._batch_size)[0]
        images, _ = self._augment(np.int32(step), batch)
        images = np.asarray(images)[:16].round().astype(np.uint8)
        images = images[: 4 * (len(images) // 4)] if len(images) > 4 else images
        rows = [np.concatenate(images[i : i + 4], axis=1) for i in range(0, len(images), 4)]
        return np.concatenate(rows, axis=0)

    def seconds(self, step: int) -> float:
        """Returns the seconds that augmentation of a batch takes, the median of five; 0 where nothing is switched on."""
        shape = (self._batch_size, *self._data.images.shape[1:])
        batch = {"image": np.zeros(shape, np.uint8), "label": np.zeros(self._batch_size, np.int32)}
        batch = put(batch, runtime.batched(self._mesh))
        if jax.eval_shape(self._augment, np.int32(step), batch)[0].dtype == np.uint8:
            return 0.0
        seconds = []
        for _ in range(6):
            start = time.monotonic()
            jax.block_until_ready(self._augment(np.int32(step), batch))
            seconds.append(time.monotonic() - start)
        return statistics.median(seconds[1:])
