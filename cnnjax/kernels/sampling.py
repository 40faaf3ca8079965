"""The kernel that samples images at the positions of a matrix; `geometry.sample` says what that means."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.kernels.blocks import divisible, size_problem, type_problem, usable

INTERPOLATIONS = ("bilinear", "nearest")
FILLS = ("reflect", "nearest", "constant", "wrap")  # numbered as in sample.h
MOST_VALUES = 2**31 - 1  # of an image


def supports(shape: tuple[int, ...]) -> bool:
    """Whether `sample` takes images of this shape."""
    return not _problem(shape)


def sample(images: jax.Array, factors: jax.Array, *, bits: int, interpolation: str, fill: str) -> jax.Array:
    """Each image at the positions of `geometry._positions`. No gradients; a batch that is divided among devices stays divided.

    Args:
        images: uint8 or float32 [b, h, w, c].
        factors: int32 [b, 2, 3].
        bits: positions are in units of 2 ** -bits pixels; at least 1, and those of the image take less than 32 bits.
        interpolation: bilinear or nearest.
        fill: reflect, nearest, constant or wrap.

    Returns:
        float32 [b, h, w, c].

    Raises:
        ValueError: `supports` is False, another type, or no such interpolation or fill.
    """
    problem = _problem(images.shape) or type_problem({"images": images}, bytes_in=("images",))
    if not problem and (factors.shape != (images.shape[0], 2, 3) or factors.dtype != jnp.int32):
        problem = f"factors are {factors.dtype} {list(factors.shape)}; give int32 {[images.shape[0], 2, 3]}"
    if not problem and not (bits >= 1 and max(images.shape[1:3]) << bits < 2**31):
        problem = f"bits={bits}; give at least 1, and fewer than 32 with those of the image's sides"
    for name, value, allowed in (("interpolation", interpolation, INTERPOLATIONS), ("fill", fill, FILLS)):
        if not problem and value not in allowed:
            problem = f"{name}={value}; give one of {', '.join(allowed)}"
    if problem:
        raise ValueError(f"sample: {problem}")
    return _sample(usable("sample"), bits, interpolation, fill)(images, factors)[0]


def _problem(shape: tuple[int, ...]) -> str:
    if len(shape) != 4:
        return f"images are {list(shape)}; give [b, h, w, c]"
    if np.prod(shape[1:], dtype=object) > MOST_VALUES:
        return f"images of {list(shape[1:])} have more than {MOST_VALUES} values"
    return size_problem(shape)


@functools.cache
def _sample(instructions: str, bits: int, interpolation: str, fill: str) -> Callable:
    attributes = {
        "bits": np.int64(bits),
        "nearest": np.bool_(interpolation == "nearest"),
        "fill": np.int64(FILLS.index(fill)),
    }

    def call(images, factors):
        result = (jax.ShapeDtypeStruct(images.shape, jnp.float32),)
        return tuple(jax.ffi.ffi_call(f"cnnjax_{instructions}_sample", result)(images, factors, **attributes))

    return divisible(f"sample_{instructions}_{bits}_{interpolation}_{fill}", call, (True, True), (True,))
