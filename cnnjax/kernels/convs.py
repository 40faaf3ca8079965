"""Convolutions without a bias, of all channels or each with a kernel of its own; see `cnnjax.kernels`.

Gradients are of reverse mode and of first order; a batch that is divided among devices stays divided.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import lax

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels.blocks import BLOCK

ACTIVATIONS = ("none", "relu", "relu6", "hard_swish", "silu", "gelu")  # as finish.h numbers them
DEPTHWISE, STRIDES = (3, 5, 7), (1, 2)  # kernels of depthwise convolutions, and their strides

Sides = tuple[tuple[int, int], tuple[int, int]]  # zeros, (top, bottom), (left, right)


def supports_conv(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, padding: Sides) -> bool:
    """Whether `conv` takes these: output channels are a multiple of 16, or the kernel is one pixel and channels multiples of 4."""
    return not _conv_problem(x_shape, w_shape, stride, padding)


def supports_depthwise(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, padding: Sides) -> bool:
    """Whether `depthwise` takes these: 16 channels or more, a kernel of 3, 5 or 7, a stride of 1 or 2."""
    return not _depthwise_problem(x_shape, w_shape, stride, padding)


def conv_output(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, padding: Sides) -> tuple[int, ...]:
    """The shape of what a convolution gives."""
    size = ((pixels + sum(side) - w_shape[0]) // stride + 1 for pixels, side in zip(x_shape[1:3], padding, strict=True))
    return x_shape[0], *size, w_shape[3]


def finishes(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, padding: Sides) -> bool:
    """Whether `finished` takes a convolution of all channels that `conv` takes: not one that is computed in tiles of outputs."""
    return w_shape[0] != 3 or stride != 1 or x_shape[3] % BLOCK > 0 or padding != ((1, 1), (1, 1))


def conv(x: jax.Array, w: jax.Array, *, stride: int, padding: Sides) -> jax.Array:
    """A convolution of all channels.

    Args:
        x: float32 [n, h, w, ci].
        w: float32 [kernel, kernel, ci, co], of an odd kernel; co a multiple of 16, or all channels multiples of 4 from 16 on
            where the kernel and the stride are one pixel.
        stride: pixels, along rows and columns.
        padding: zeros, ((top, bottom), (left, right)), fewer than the kernel's pixels.

    Returns:
        float32 [n, (h + top + bottom - kernel) // stride + 1, the same of w, co].

    Raises:
        ValueError: `supports_conv` is False, or another type.
    """
    problem = _conv_problem(x.shape, w.shape, stride, padding) or kernels.type_problem({"x": x, "w": w})
    if problem:
        raise ValueError(f"conv: {problem}")
    return _conv(_Conv(kernels.usable("conv"), "plain", stride, (*padding[0], *padding[1])), x, w)


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
        ValueError: `supports_depthwise` is False, or another type.
    """
    problem = _depthwise_problem(x.shape, w.shape, stride, padding) or kernels.type_problem({"x": x, "w": w})
    if problem:
        raise ValueError(f"depthwise: {problem}")
    return _conv(_Conv(kernels.usable("depthwise"), "depthwise", stride, (*padding[0], *padding[1])), x, w)


def finished(x: jax.Array, w: jax.Array, offset: jax.Array, more: jax.Array | None = None, *, stride: int, padding: Sides,
             activation: str) -> jax.Array:  # fmt: skip
    """activation(convolution + offset + more) in one pass, without gradients.

    Args:
        x, w, stride, padding: of `conv` where `finishes`, or of `depthwise`: as w has ci or one input channel.
        offset: float32 [co].
        more: float32 of the shape of the result, or nothing.
        activation: one of `ACTIVATIONS`.

    Raises:
        ValueError: these do not fit, or another type.
    """
    kind = "depthwise" if w.shape[2] == 1 < x.shape[3] else "plain"
    problem = (_depthwise_problem if kind == "depthwise" else _conv_problem)(x.shape, w.shape, stride, padding)
    arrays = {"x": x, "w": w, "offset": offset} | ({} if more is None else {"more": more})
    problem = problem or kernels.type_problem(arrays)
    if not problem and offset.shape != w.shape[3:]:
        problem = f"offset is {list(offset.shape)}; give {list(w.shape[3:])}"
    if not problem and kind == "plain" and not finishes(x.shape, w.shape, stride, padding):
        problem = f"x is {list(x.shape)} and w is {list(w.shape)}; nothing can follow this convolution, use conv"
    if not problem and activation not in ACTIVATIONS:
        problem = f"activation={activation}; give one of {', '.join(ACTIVATIONS)}"
    if problem:
        raise ValueError(f"finished: {problem}")
    options = _Conv(kernels.usable("finished"), kind, stride, (*padding[0], *padding[1]), activation, more is not None)
    return _forward(options, 3)(x, w, offset, *(() if more is None else (more,)))[0]


def _conv_problem(x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: Sides) -> str:
    if len(x) != 4 or len(w) != 4 or w[0] != w[1] or w[0] % 2 == 0 or x[3] != w[2]:
        return f"x is {list(x)} and w is {list(w)}; give [n, h, w, ci] and [k, k, ci, co] with an odd k"
    if w[3] % BLOCK and not is_product(w, stride):
        return f"{w[3]} output channels; give a multiple of {BLOCK}, or let JAX compute this layer"
    if not 1 <= stride <= kernels.LARGEST:
        return f"stride={stride}; give 1 or more"
    return _padding_problem(x, w, padding) or kernels.size_problem(x, w)


def is_product(w: tuple[int, ...], stride: int) -> bool:
    """Whether the convolution is one product of matrices, for which channels need not be multiples of 16."""
    return w[0] == stride == 1 and min(w[2:]) >= BLOCK and not any(channels % 4 for channels in w[2:])


def _depthwise_problem(x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: Sides) -> str:
    if len(x) != 4 or len(w) != 4 or w[0] != w[1] or w[0] not in DEPTHWISE or w[2] != 1 or x[3] != w[3]:
        return f"x is {list(x)} and w is {list(w)}; give [n, h, w, c] and [k, k, 1, c] with a k of 3, 5 or 7"
    if x[3] < BLOCK:
        return f"{x[3]} channels; give {BLOCK} or more, or let JAX compute this layer"
    if stride not in STRIDES:
        return f"stride={stride}; give 1 or 2, or let JAX compute this layer"
    return _padding_problem(x, w, padding) or kernels.size_problem(x, w)


def _padding_problem(x: tuple[int, ...], w: tuple[int, ...], padding: Sides) -> str:
    if not all(0 <= zeros < w[0] for side in padding for zeros in side):
        return f"padding={padding}; give 0 to {w[0] - 1} zeros a side, or let JAX compute this layer"
    if min(pixels + sum(side) - w[0] for pixels, side in zip(x[1:3], padding, strict=True)) < 0:
        return f"nothing is left of images of {x[1]}x{x[2]} pixels; give larger ones"
    return ""


@dataclasses.dataclass(frozen=True)
class _Conv:
    instructions: str
    kind: str  # plain or depthwise
    stride: int
    padding: tuple[int, int, int, int]
    activation: str = "none"
    more: bool = False

    def name(self, what: str) -> str:
        rest = (self.instructions, self.stride, *self.padding, self.activation, self.more)
        return "_".join(map(str, (self.kind, what, *rest)))

    def attributes(self) -> dict[str, np.generic | np.ndarray]:
        return {"stride": np.int64(self.stride), "padding": np.array(self.padding, np.int64)}

    def output(self, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
        top, bottom, left, right = self.padding
        return conv_output(x, w, self.stride, ((top, bottom), (left, right)))


@functools.cache
def _forward(options: _Conv, arguments: int = 2) -> Callable:
    """x, w[, offset[, more]] -> y."""
    target = f"cnnjax_{options.instructions}_{options.kind}_forward"
    attributes = options.attributes() | {"activation": np.int64(ACTIVATIONS.index(options.activation))}

    def call(x, w, *rest):
        shape = options.output(x.shape, w.shape)
        return (jax.ffi.ffi_call(target, kernels.float32(*shape))(x, w, *rest, **attributes),)

    operands = (True, *(False,) * (arguments - 1), *(True,) * options.more)
    return kernels.divisible(options.name(f"forward_{arguments}"), call, operands, (True,))


@functools.cache
def _backward(options: _Conv, input_grad: bool) -> Callable:
    """x, w, g -> dw; and dx, where it is wanted."""
    target = f"cnnjax_{options.instructions}_{options.kind}_backward"

    def call(x, w, g):
        kinds = [kernels.float32(*shape) for shape in (w.shape, x.shape)[: 1 + input_grad]]
        return tuple(jax.ffi.ffi_call(target, kinds)(x, w, g, **options.attributes()))

    return kernels.divisible(
        options.name(f"backward_{input_grad}"), call, (True, False, True), (False, True)[: 1 + input_grad]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(options, x, w):
    return _forward(options)(x, w)[0]


def _conv_bwd(options, saved, g):
    # One call for both: weights that are read after their gradient is known could not be updated in place.
    x, w = saved
    if options.kind == "depthwise" or x.shape[3] % BLOCK == 0 or is_product(w.shape, options.stride):
        dw, dx = _backward(options, input_grad=True)(x, w, g)
        return dx, dw
    top, bottom, left, right = options.padding

    def outputs(x):  # of images, whose gradient hardly anybody needs: XLA leaves it out then
        return lax.conv_general_dilated(x, w, (options.stride,) * 2, ((top, bottom), (left, right)),
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip

    return jax.linear_transpose(outputs, x)(g)[0], _backward(options, input_grad=False)(x, w, g)[0]


_conv.defvjp(lambda options, x, w: (_conv(options, x, w), (x, w)), _conv_bwd)
