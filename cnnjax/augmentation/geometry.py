"""Where each pixel of an augmented image comes from: one matrix per image, and one sampling.

A matrix maps output to input positions (y, x) about the centre of the image, in units of its side.
"""

import jax
import jax.numpy as jnp

from cnnjax.kernels import FILLS, INTERPOLATIONS, PLAIN, Ops  # noqa: F401


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


def _factors(matrices: jax.Array, height: int, width: int) -> tuple[jax.Array, int]:
    """The matrices in whole numbers, for `Ops.sample`: int32 [b, 2, 3] in units of 2 ** -fraction; and the fraction."""
    fraction = 26 - (max(height, width) - 1).bit_length()  # sums below 2**31 for factors up to 8
    scales = jnp.array([[1.0, height / width, 2.0 * height], [width / height, 1.0, 2.0 * width]])
    limits = 8.0 * jnp.array([[1.0, 1.0, max(height, width)]])
    factors = jnp.round(jnp.clip(matrices * scales[None], -limits[None], limits[None]) * 2.0**fraction)
    return factors.astype(jnp.int32), fraction


def sample(images: jax.Array, matrices: jax.Array, *, interpolation: str, fill: str, ops: Ops = PLAIN) -> jax.Array:
    """Each image at the positions that its matrix gives.

    Args:
        images: uint8 or float32 [b, h, w, c].
        matrices: float32 [b, 2, 3].
        interpolation: bilinear or nearest.
        fill: outside the image: reflect (edge pixel repeated), nearest, constant (0) or wrap.
        ops: what samples; all give the same up to rounding.

    Returns:
        float32 [b, h, w, c] in the range of the input.
    """
    factors, fraction = _factors(matrices, *images.shape[1:3])
    return ops.sample(images, factors, fraction=fraction, interpolation=interpolation, fill=fill)
