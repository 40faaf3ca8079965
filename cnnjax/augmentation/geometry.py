"""Where each pixel of an augmented image comes from: one matrix per image, and one sampling.

A matrix maps output to input positions (y, x) about the centre of the image, in units of its side.
"""

import math

import jax
import jax.numpy as jnp

from cnnjax.augmentation.numbers import Number, Numbers, around, chance
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


# In the order of their draws.
GEOMETRY: dict[str, Number] = {
    "mirror_y": chance("flip_vertical", lambda v: 0.5),
    "mirror_x": chance("flip_horizontal", lambda v: 0.5),
    "turns": Number("turns", 0.0, lambda v: 0.0, lambda v: 3.0, "whole", unit=" × 90°"),
    "zoom": around("zoom", 1.0, unit=" of the side seen"),
    "stretch_y": around("stretch", 1.0, unit=" of the height"),
    "stretch_x": around("stretch", 1.0, unit=" of the width"),
    "shear": around("shear", 0.0, unit="°"),
    "rotation": around("rotation", 0.0, unit="°"),
    "shift_y": around("shift", 0.0, unit=" of the height"),
    "shift_x": around("shift", 0.0, unit=" of the width"),
    "crop_area": Number("crop_area", 1.0, lambda v: v, lambda v: 1.0, off=1.0),
    # -1 to 1: of the most oblong window that fits, and of the room that the window has; see `_crop`.
    "crop_ratio": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0, off=1.0),
    "crop_y": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0, off=1.0),
    "crop_x": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0, off=1.0),
    "pad_y": around("pad_crop", 0.0, kind="whole", unit=" px"),
    "pad_x": around("pad_crop", 0.0, kind="whole", unit=" px"),
}


def compose(numbers: Numbers, shape: tuple[int, int], config) -> jax.Array:
    """All geometry of each image as one matrix: float32 [b, 2, 3], for `sample`.

    A position of the output is mirrored, turned, scaled, sheared, rotated and moved, and lands in the window that was
    cropped. Ranges are those of Keras' RandomFlip, RandomZoom, RandomShear, RandomRotation and RandomTranslation and of
    torchvision's RandomResizedCrop.
    """
    get = numbers.get
    height, width = shape
    steps = []
    if "mirror_y" in numbers or "mirror_x" in numbers:
        steps.append(mirror(1 - 2 * get("mirror_y", 0.0), 1 - 2 * get("mirror_x", 0.0)))
    if "turns" in numbers:
        steps.append(turn(numbers["turns"]))
    if "zoom" in numbers or "stretch_y" in numbers or "stretch_x" in numbers:
        zoom = get("zoom", 1.0)
        steps.append(scale(zoom * get("stretch_y", 1.0), zoom * get("stretch_x", 1.0)))
    if "shear" in numbers:
        steps.append(shear(numbers["shear"]))
    if "rotation" in numbers:
        steps.append(rotate(numbers["rotation"]))
    if "shift_y" in numbers or "shift_x" in numbers:
        steps.append(move(get("shift_y", 0.0), get("shift_x", 0.0)))
    if "crop_area" in numbers:
        steps.append(_crop(numbers, config))
    if "pad_y" in numbers or "pad_x" in numbers:
        steps.append(move(get("pad_y", 0.0) / height, get("pad_x", 0.0) / width))
    total = steps[0]
    for step in steps[1:]:
        total = then(total, step)
    return total


def _crop(numbers: Numbers, config) -> jax.Array:
    """A window of a part of the area, oblong up to `crop_ratio` as far as it fits in the image, anywhere in it."""
    area = numbers["crop_area"]
    oblong = jnp.minimum(math.log(config.crop_ratio), -jnp.log(area)) * numbers.get("crop_ratio", 0.0)
    height, width = jnp.sqrt(area * jnp.exp(-oblong)), jnp.sqrt(area * jnp.exp(oblong))
    y = numbers.get("crop_y", 0.0) * (1 - height) / 2
    x = numbers.get("crop_x", 0.0) * (1 - width) / 2
    return matrix([[height, 0, y], [0, width, x]])
