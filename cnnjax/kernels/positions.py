"""Sampling of images at positions in whole numbers, in plain JAX."""

import jax
import jax.numpy as jnp


def _inside(index: jax.Array, size: int, fill: str) -> jax.Array:
    """Maps whole positions on an endless line to positions in [0, size)."""
    if fill == "reflect":
        index = jnp.mod(index, 2 * size)
        return jnp.where(index >= size, 2 * size - 1 - index, index)
    return jnp.mod(index, size) if fill == "wrap" else jnp.clip(index, 0, size - 1)


def find(factors: jax.Array, fraction: int, height: int, width: int) -> tuple[tuple[jax.Array, jax.Array], int]:
    """Returns the position of each output pixel in the input: (y, x), int32 [b, h, w], in units of 2 ** -bits pixels; and the bits.

    Whole numbers, because a compiler may compute a position once for the pixels it selects and again for their weights;
    with floats the two may round to two sides of a pixel's edge.
    """
    factors = factors[:, :, :, None, None]
    # Twice the distance from the centre, in pixels, is whole.
    y, x = 2 * jnp.arange(height) - (height - 1), 2 * jnp.arange(width) - (width - 1)
    twice = factors[:, :, 0] * y[None, None, :, None] + factors[:, :, 1] * x[None, None, None, :] + factors[:, :, 2]
    return (twice[:, 0] + ((height - 1) << fraction), twice[:, 1] + ((width - 1) << fraction)), fraction + 1


def sampled(images: jax.Array, factors: jax.Array, fraction: int, interpolation: str, fill: str) -> jax.Array:
    """Samples each image at the positions of `find`.

    Args:
        images: uint8 or float32 [b, h, w, c].
        factors: int32 [b, 2, 3], matrices in units of 2 ** -fraction.
        fraction: of the factors.
        interpolation: bilinear or nearest.
        fill: outside the image: reflect (edge pixel repeated), nearest, constant (0) or wrap.

    Returns:
        float32 [b, h, w, c].
    """
    count, height, width, channels = images.shape
    (y, x), bits = find(factors, fraction, height, width)
    flat = images.reshape(count, height * width, channels)

    def at(row, column):
        index = _inside(row, height, fill) * width + _inside(column, width, fill)
        values = jax.vmap(lambda image, i: image[i])(flat, index.reshape(count, -1)).astype(jnp.float32)
        values = values.reshape(count, height, width, channels)
        if fill == "constant":
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            values = jnp.where(inside[..., None], values, 0.0)
        return values

    if interpolation == "nearest":
        half = 1 << (bits - 1)
        return at((y + half) >> bits, (x + half) >> bits)
    top, left = y >> bits, x >> bits
    down, right = (((p & ((1 << bits) - 1)).astype(jnp.float32) * 2.0**-bits)[..., None] for p in (y, x))
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down
