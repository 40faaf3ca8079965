"""Mixup and CutMix: whole images of a batch blended or pasted, and the targets that follow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.augmentation import colour
from cnnjax.streams import AugmentationStream


class Targets(NamedTuple):
    """Classes that each image shows: `weight` of its label, the rest of `partners`."""

    labels: jax.Array  # int32 [b]
    partners: jax.Array  # int32 [b]
    weight: jax.Array  # float32 [b], 1 where nothing was mixed

    def probabilities(self, classes: int, smoothing: float) -> jax.Array:
        """float32 [b, classes]: the mixed labels, of which the fraction `smoothing` is spread over all classes."""
        own, other = jax.nn.one_hot(self.labels, classes), jax.nn.one_hot(self.partners, classes)
        mixed = own * self.weight[:, None] + other * (1 - self.weight[:, None])
        return mixed * (1 - smoothing) + smoothing / classes


def of_partners(values: jax.Array) -> jax.Array:
    """Returns for each image of a batch the value [b, ...] of the one that it is mixed with."""
    return jnp.roll(values, 1, axis=0)


def mix(key: jax.Array, images: jax.Array, labels: jax.Array, config) -> tuple[jax.Array, Targets]:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) with the batch's previous image.

    With both on, each image gets either with probability 1/2. CutMix weights by the pixels that are left.

    Args:
        key: random key.
        images: uint8 or float32 [b, h, w, 3].
        labels: int32 [b].
        config: the `augment` section.

    Returns:
        Mixed images, float32, and their targets; the images as they are where both are off.
    """
    if not config.mixup and not config.cutmix:
        return images, Targets(labels, labels, jnp.ones(labels.shape, jnp.float32))
    count, height, width, _ = images.shape
    keys = jax.random.split(jax.random.fold_in(key, AugmentationStream.MIXING), 4)
    images = images.astype(jnp.float32)
    others = of_partners(images)
    cut = jax.random.bernoulli(keys[0], 0.5, (count,)) if config.mixup and config.cutmix else bool(config.cutmix)
    cut = jnp.broadcast_to(cut, (count,))
    weight = jnp.ones((count,), jnp.float32)
    mixed = images
    if config.mixup:
        weight = jax.random.beta(keys[1], config.mixup, config.mixup, (count,))
        mixed = others + (images - others) * weight[:, None, None, None]
    if config.cutmix:
        side = jnp.sqrt(1 - jax.random.beta(keys[2], config.cutmix, config.cutmix, (count,)))
        sides = jnp.array([[height, width]], jnp.float32)
        centre = jnp.floor(jax.random.uniform(keys[3], (count, 2)) * sides)
        half = jnp.floor(side[:, None] * sides / 2)
        boxes = jnp.concatenate([jnp.maximum(centre - half, 0), jnp.minimum(centre + half, sides)], -1).astype(jnp.int32)
        left = 1 - ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(jnp.float32) / (height * width)
        pasted = jnp.where(colour.in_boxes(boxes, height, width), others, images)
        mixed = jnp.where(cut[:, None, None, None], pasted, mixed)
        weight = jnp.where(cut, left, weight)
    return mixed, Targets(labels, of_partners(labels), weight)
