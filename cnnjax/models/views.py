"""Views of an image at test time, over which a classifier averages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

View = Callable[[jax.Array], jax.Array]  # [b, h, w, 3] -> the same shape


def _mirrored(images: jax.Array) -> jax.Array:
    return images[:, :, ::-1]


def _turned(quarters: int) -> View:
    return lambda images: jnp.rot90(images, quarters, axes=(1, 2))


def _turned_and_mirrored(quarters: int) -> View:
    return lambda images: _mirrored(jnp.rot90(images, quarters, axes=(1, 2)))


# The views of `image.views`, of which the first is the image as it is.
VIEWS: dict[str, tuple[View, ...]] = {
    "plain": (lambda images: images,),
    "mirrored": (lambda images: images, _mirrored),
    "turned": (*map(_turned, range(4)), *map(_turned_and_mirrored, range(4))),
}


def averaged(model: Callable[[jax.Array], jax.Array], images: jax.Array, views: str) -> jax.Array:
    """Returns the mean over views of what a network gives for images.

    Args:
        model: [b, h, w, 3] -> [b, numbers].
        images: [b, h, w, 3].
        views: one of `VIEWS`.
    """
    chosen = VIEWS[views]
    if len(chosen) == 1:
        return model(images)
    # One after the other, so that they take no more memory than one, and the network is compiled once.
    return lax.map(lambda i: model(lax.switch(i, chosen, images)), jnp.arange(len(chosen))).mean(0)
