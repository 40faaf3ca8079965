"""Views of an image at test time, over which a classifier averages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# The views of `image.views`: (quarter turns, mirrored after them) of each, the image as it is first.
VIEWS: dict[str, tuple[tuple[int, bool], ...]] = {
    "plain": ((0, False),),
    "mirrored": ((0, False), (0, True)),
    "turned": tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4)),
}


def view(images: jax.Array, quarters: int, mirrored: bool) -> jax.Array:
    """Returns images [b, h, w, 3] turned by quarters from the vertical towards the horizontal axis, then mirrored left-right."""
    turned = jnp.rot90(images, quarters, axes=(1, 2))
    return turned[:, :, ::-1] if mirrored else turned


def averaged(model: Callable[[jax.Array], jax.Array], images: jax.Array, views: str) -> jax.Array:
    """Returns the mean over views of what a network gives for images.

    Args:
        model: [b, h, w, 3] -> [b, numbers].
        images: [b, h, w, 3].
        views: one of `VIEWS`.
    """
    chosen = [lambda x, how=how: view(x, *how) for how in VIEWS[views]]
    if len(chosen) == 1:
        return model(images)
    # One after the other, so that they take no more memory than one, and the network is compiled once.
    return lax.map(lambda i: model(lax.switch(i, chosen, images)), jnp.arange(len(chosen))).mean(0)
