"""Where each pixel of an augmented image comes from: one matrix per image, and one sampling.

A matrix maps output to input positions (y, x) about the centre of the image, in units of its side.
"""

import jax
import jax.numpy as jnp


def matrix(rows) -> jax.Array:
    """Nested lists of scalars or arrays [b], 2 x 3 -> float32 [b, 2, 3]."""
    rows = jnp.broadcast_arrays(*(jnp.asarray(x, jnp.float32) for row in rows for x in row))
    return jnp.stack(rows, -1).reshape(*rows[0].shape, 2, 3)


def then(first: jax.Array, second: jax.Array) -> jax.Array:
    """The map that applies `first` to a position and `second` to the result: both [b, 2, 3]."""
    linear = second[..., :2] @ first[..., :2]
    shift = (second[..., :2] @ first[..., 2:]) + second[..., 2:]
    return jnp.concatenate([linear, shift], -1)


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


def sample(images: jax.Array, matrices: jax.Array, *, interpolation: str, fill: str) -> jax.Array:
    """Each image at the positions that its matrix gives.

    Args:
        images: uint8 or float32 [b, h, w, c].
        matrices: float32 [b, 2, 3].
        interpolation: bilinear or nearest.
        fill: outside the image: reflect (edge pixel repeated), nearest, constant (0) or wrap.

    Returns:
        float32 [b, h, w, c] in the range of the input.
    """
    count, height, width, channels = images.shape
    # float32 throughout: bfloat16 positions would be off by whole pixels.
    y = (jnp.arange(height, dtype=jnp.float32) + 0.5) / height - 0.5
    x = (jnp.arange(width, dtype=jnp.float32) + 0.5) / width - 0.5
    m = matrices[:, :, :, None, None]
    position = m[:, :, 0] * y[None, None, :, None] + m[:, :, 1] * x[None, None, None, :] + m[:, :, 2]
    y = (position[:, 0] + 0.5) * height - 0.5
    x = (position[:, 1] + 0.5) * width - 0.5
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
        return at(jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32))
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down
