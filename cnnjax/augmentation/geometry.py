"""Where each pixel of an augmented image comes from: one matrix per image, and one sampling.

A matrix maps output to input positions (y, x) about the centre of the image, in units of its side.
"""

import functools

import jax
import jax.numpy as jnp

from cnnjax.kernels import sampling
from cnnjax.kernels.sampling import FILLS, INTERPOLATIONS  # noqa: F401


def matrix(rows) -> jax.Array:
    """Nested lists of scalars or arrays [b], 2 x 3 -> float32 [b, 2, 3]."""
    rows = jnp.broadcast_arrays(*(jnp.asarray(x, jnp.float32) for row in rows for x in row))
    return jnp.stack(rows, -1).reshape(*rows[0].shape, 2, 3)


def then(first: jax.Array, second: jax.Array) -> jax.Array:
    """The map that applies `first` to a position and `second` to the result: both [b, 2, 3]."""
    # Accelerators multiply matrices in fewer digits unless told: a position would be off by parts of a pixel.
    product = jnp.matmul(second[..., :2], first, precision="highest")
    return product.at[..., 2:].add(second[..., 2:])


def mirror(y: jax.Array, x: jax.Array) -> jax.Array:
    """Signs [b]: -1 mirrors top-bottom (y) or left-right (x)."""
    return matrix([[y, 0, 0], [0, x, 0]])


def turn(quarters: jax.Array) -> jax.Array:
    """Counter-clockwise by quarters of a turn [b], exactly: no sine of a rounded angle."""
    # cos and sin of 0, 90, 180 and 270 degrees.
    quarters = jnp.mod(quarters.astype(jnp.int32), 4)
    cos, sin = jnp.array([1.0, 0.0, -1.0, 0.0])[quarters], jnp.array([0.0, 1.0, 0.0, -1.0])[quarters]
    return matrix([[cos, sin, 0], [-sin, cos, 0]])


def rotate(degrees: jax.Array) -> jax.Array:
    """Clockwise by degrees [b]."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return matrix([[cos, -sin, 0], [sin, cos, 0]])


def scale(y: jax.Array, x: jax.Array) -> jax.Array:
    """The visible window's height and width as factors [b]; above 1 shows more than the image."""
    return matrix([[y, 0, 0], [0, x, 0]])


def shear(degrees: jax.Array) -> jax.Array:
    """Rows slide along x, by degrees [b] against the vertical."""
    return matrix([[1, 0, 0], [jnp.tan(jnp.deg2rad(degrees)), 1, 0]])


def move(y: jax.Array, x: jax.Array) -> jax.Array:
    """The window moves by fractions of the side [b], so that the content moves the other way."""
    return matrix([[1, 0, y], [0, 1, x]])


def _inside(index: jax.Array, size: int, fill: str) -> jax.Array:
    """Integer positions on an endless line -> positions in [0, size)."""
    if fill == "reflect":
        index = jnp.mod(index, 2 * size)
        return jnp.where(index >= size, 2 * size - 1 - index, index)
    return jnp.mod(index, size) if fill == "wrap" else jnp.clip(index, 0, size - 1)


def _factors(matrices: jax.Array, height: int, width: int) -> tuple[jax.Array, int]:
    """The matrices in whole numbers, for `_positions`: int32 [b, 2, 3] in units of 2 ** -fraction; and the fraction."""
    fraction = 26 - (max(height, width) - 1).bit_length()  # sums below 2**31 for factors up to 8
    scales = jnp.array([[1.0, height / width, 2.0 * height], [width / height, 1.0, 2.0 * width]])
    limits = 8.0 * jnp.array([[1.0, 1.0, max(height, width)]])
    factors = jnp.round(jnp.clip(matrices * scales[None], -limits[None], limits[None]) * 2.0**fraction)
    return factors.astype(jnp.int32), fraction


def _positions(factors: jax.Array, fraction: int, height: int, width: int) -> tuple[tuple[jax.Array, jax.Array], int]:
    """Returns the place of each output pixel in the input: (y, x), int32 [b, h, w], in units of 2 ** -bits pixels; and the bits.

    Whole numbers, because a compiler may compute a position once for the pixels it selects and again for their weights;
    with floats the two may round to two sides of a pixel's edge.
    """
    factors = factors[:, :, :, None, None]
    # Twice the distance from the centre, in pixels, is whole.
    y, x = 2 * jnp.arange(height) - (height - 1), 2 * jnp.arange(width) - (width - 1)
    twice = factors[:, :, 0] * y[None, None, :, None] + factors[:, :, 1] * x[None, None, None, :] + factors[:, :, 2]
    return (twice[:, 0] + ((height - 1) << fraction), twice[:, 1] + ((width - 1) << fraction)), fraction + 1


def sample(images: jax.Array, matrices: jax.Array, *, interpolation: str, fill: str, native: bool = False) -> jax.Array:
    """Each image at the positions that its matrix gives.

    Args:
        images: uint8 or float32 [b, h, w, c].
        matrices: float32 [b, 2, 3].
        interpolation: bilinear or nearest.
        fill: outside the image: reflect (edge pixel repeated), nearest, constant (0) or wrap.
        native: by `cnnjax.kernels` where it takes such images; the same up to rounding.

    Returns:
        float32 [b, h, w, c] in the range of the input.
    """
    factors, fraction = _factors(matrices, *images.shape[1:3])
    if native and sampling.supports(images.shape):
        return _native(images, factors, fraction, interpolation, fill)
    return _sampled(images, factors, fraction, interpolation, fill)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _native(images, factors, fraction, interpolation, fill):
    return sampling.sample(images, factors, bits=fraction + 1, interpolation=interpolation, fill=fill)


@_native.defjvp
def _native_jvp(fraction, interpolation, fill, arrays, tangents):
    def sampled(images, factors):
        return _sampled(images, factors, fraction, interpolation, fill)

    return _native(*arrays, fraction, interpolation, fill), jax.jvp(sampled, arrays, tangents)[1]


def _sampled(images, factors, fraction, interpolation, fill):
    count, height, width, channels = images.shape
    (y, x), bits = _positions(factors, fraction, height, width)
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
