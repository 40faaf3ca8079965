"""Convolutions with a kernel for each channel; see `cnnjax.kernels`.

Gradients are of reverse mode and of first order; a batch that is divided among devices stays divided.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels.blocks import BLOCK

KERNELS, STRIDES = (3, 5, 7), (1, 2)

Sides = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)


def supports(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, padding: Sides) -> bool:
    """Whether `depthwise` takes these: 16 channels or more, a kernel of 3, 5 or 7, a stride of 1 or 2."""
    return not _problem(x_shape, w_shape, stride, padding)


def depthwise(x: jax.Array, w: jax.Array, *, stride: int, padding: Sides) -> jax.Array:
    """A convolution of each channel with a kernel of its own.

    Args:
        x: float32 [n, h, w, channels], 16 channels or more.
        w: float32 [kernel, kernel, 1, channels], of a kernel of 3, 5 or 7.
        stride: 1 or 2 pixels, along rows and columns.
        padding: zeros, ((top, bottom), (left, right)), fewer than the kernel's pixels.

    Returns:
        float32 [n, (h + top + bottom - kernel) // stride + 1, the same of w, channels].

    Raises:
        ValueError: `supports` is False, or another type.
    """
    problem = _problem(x.shape, w.shape, stride, padding) or kernels.type_problem({"x": x, "w": w})
    if problem:
        raise ValueError(f"depthwise: {problem}")
    return _depthwise(_Depthwise(kernels.usable("depthwise"), stride, (*padding[0], *padding[1])), x, w)


def _problem(x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: Sides) -> str:
    if len(x) != 4 or len(w) != 4 or w[0] != w[1] or w[0] not in KERNELS or w[2] != 1 or x[3] != w[3]:
        return f"x is {list(x)} and w is {list(w)}; give [n, h, w, c] and [k, k, 1, c] with a k of 3, 5 or 7"
    if x[3] < BLOCK:
        return f"{x[3]} channels; give {BLOCK} or more, or let JAX compute this layer"
    if stride not in STRIDES:
        return f"stride={stride}; give 1 or 2, or let JAX compute this layer"
    if not all(0 <= zeros < w[0] for side in padding for zeros in side):
        return f"padding={padding}; give 0 to {w[0] - 1} zeros a side, or let JAX compute this layer"
    if min(pixels + sum(side) - w[0] for pixels, side in zip(x[1:3], padding, strict=True)) < 0:
        return f"nothing is left of images of {x[1]}x{x[2]} pixels; give larger ones"
    return kernels.size_problem(x, w)


@dataclasses.dataclass(frozen=True)
class _Depthwise:
    instructions: str
    stride: int
    padding: tuple[int, int, int, int]


@functools.cache
def _call(options: _Depthwise, what: str) -> Callable:
    """forward: x, w -> y. backward: x, w, g -> dw, dx."""
    target = f"cnnjax_{options.instructions}_depthwise_{what}"
    attributes = {"stride": np.int64(options.stride), "padding": np.array(options.padding, np.int64)}

    def call(x, w, *g):
        zeros = sum(options.padding[:2]), sum(options.padding[2:])
        size = ((x.shape[i + 1] + zeros[i] - w.shape[0]) // options.stride + 1 for i in range(2))
        shapes = (w.shape, x.shape) if g else ((x.shape[0], *size, x.shape[3]),)
        return tuple(jax.ffi.ffi_call(target, [kernels.float32(*shape) for shape in shapes])(x, w, *g, **attributes))

    name = "_".join(map(str, ("depthwise", what, options.instructions, options.stride, *options.padding)))
    operands, results = ((True, False, True), (False, True)) if what == "backward" else ((True, False), (True,))
    return kernels.divisible(name, call, operands, results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _depthwise(options, x, w):
    return _call(options, "forward")(x, w)[0]


_depthwise.defvjp(lambda options, x, w: (_depthwise(options, x, w), (x, w)),
                  lambda options, saved, g: _call(options, "backward")(*saved, g)[::-1])  # fmt: skip
