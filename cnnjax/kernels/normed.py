"""Batch normalisation in training, with the activation that follows it, and a max-pool; see `cnnjax.kernels`.

Gradients are of reverse mode and of first order; a batch that is divided among devices stays divided, and then statistics are
those of the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels.blocks import BLOCK

ACTIVATIONS = ("none", "relu", "relu6")  # as finish.h numbers them


def supports_norm(x_shape: tuple[int, ...]) -> bool:
    """Whether `batch_norm` takes this: 16 channels or more."""
    return not _norm_problem(x_shape)


def supports_max_pool(x_shape: tuple[int, ...], window: tuple[int, ...]) -> bool:
    """Whether `max_pool` is this pool, of window, stride and padding, and takes this; channels must be a multiple of 16."""
    return window == (3, 2, 1) and not _pool_problem(x_shape)


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, more: jax.Array | None = None, *, epsilon: float,
               activation: str) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """(x - mean) / sqrt(var + epsilon) * scale + bias, plus `more`, activated, by the statistics of this batch.

    Args:
        x: float32 [n, ..., channels], 16 channels or more.
        scale, bias: float32 [channels].
        more: float32 of the shape of x, or nothing.
        epsilon: keeps the root away from zero.
        activation: one of `ACTIVATIONS`.

    Returns:
        The result, of the shape of x; mean and variance, [channels], through which no gradients go.

    Raises:
        ValueError: `supports_norm` is False, or another type or shape.
    """
    arrays = {"x": x, "scale": scale, "bias": bias} | ({} if more is None else {"more": more})
    problem = _norm_problem(x.shape) or kernels.type_problem(arrays)
    if activation not in ACTIVATIONS:
        problem = f"activation={activation}; give one of {', '.join(ACTIVATIONS)}"
    if not problem and not (scale.shape == bias.shape == x.shape[-1:] and (more is None or more.shape == x.shape)):
        shapes = ", ".join(f"{name} is {list(array.shape)}" for name, array in arrays.items())
        problem = f"{shapes}; give scale and bias {list(x.shape[-1:])}, and more as x"
    if problem:
        raise ValueError(f"batch_norm: {problem}")
    return _norm(_Norm(kernels.usable("batch_norm"), float(epsilon), activation, more is not None), x, scale, bias, more)


def max_pool(x: jax.Array) -> jax.Array:
    """A 3x3 max-pool of stride 2, padded by one pixel: float32 [n, h, w, c] -> [n, ceil(h / 2), ceil(w / 2), c].

    At a tie the whole gradient goes to one place, the upper, then the left.

    Raises:
        ValueError: `supports_max_pool` is False, or another type.
    """
    problem = _pool_problem(x.shape) or kernels.type_problem({"x": x})
    if problem:
        raise ValueError(f"max_pool: {problem}")
    return _pool(_Pool(kernels.usable("max_pool"), *x.shape[1:3]), x)


def _norm_problem(x: tuple[int, ...]) -> str:
    if len(x) < 2 or x[-1] < BLOCK:
        return f"x is {list(x)}; give [n, ..., channels], {BLOCK} channels or more, or let JAX compute this layer"
    return kernels.size_problem(x)


def _pool_problem(x: tuple[int, ...]) -> str:
    if len(x) != 4 or x[3] % BLOCK:
        return f"x is {list(x)}; give [n, h, w, channels], channels a multiple of {BLOCK}, or let JAX compute this layer"
    return kernels.size_problem(x)


@dataclasses.dataclass(frozen=True)
class _Norm:
    instructions: str
    epsilon: float
    activation: str
    more: bool


@functools.cache
def _norm_call(options: _Norm, what: str) -> Callable:
    """sums: x -> sum, squares. forward: x, mean, scale, bias[, more] -> y. gradient_sums: g, y, x, mean -> sum, product.
    backward: g, y, x, mean, scale, shift, slope -> dx[, that of more]."""  # fmt: skip
    target = f"cnnjax_{options.instructions}_norm_{what}"
    images = {"sums": (0,), "forward": (0, 4), "gradient_sums": (0, 1, 2), "backward": (0, 1, 2)}[what]
    inputs = {"sums": 1, "forward": 4 + options.more, "gradient_sums": 4, "backward": 7}[what]
    sums, results = what.endswith("sums"), {"forward": 1, "backward": 1 + options.more}.get(what, 2)

    def call(*arrays):
        kinds = (kernels.float32(*(arrays[0].shape[-1:] if sums else arrays[0].shape)),) * results
        attributes = {} if what == "sums" else {"activation": np.int64(ACTIVATIONS.index(options.activation))}
        return tuple(jax.ffi.ffi_call(target, kinds)(*arrays, **attributes))

    name = f"norm_{what}_{options.instructions}_{options.activation}_{options.more}"
    return kernels.divisible(name, call, tuple(i in images for i in range(inputs)), (not sums,) * results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(options, x, scale, bias, more):
    return _norm_fwd(options, x, scale, bias, more)[0]


def _norm_fwd(options, x, scale, bias, more):
    count = np.float32(x.size // x.shape[-1])
    total, squares = _norm_call(options, "sums")(x)
    mean = total / count
    var = jnp.maximum(squares / count - mean**2, 0)
    root = lax.rsqrt(var + np.float32(options.epsilon))
    (y,) = _norm_call(options, "forward")(x, mean, root * scale, bias, *(() if more is None else (more,)))
    return (y, mean, var), (x, y, mean, root, scale)


def _norm_bwd(options, saved, gradients):
    x, y, mean, root, scale = saved
    g, count = gradients[0], np.float32(x.size // x.shape[-1])
    total, product = _norm_call(options, "gradient_sums")(g, y, x, mean)
    shift, slope = total / count, product / count * root**2
    dx, *more = _norm_call(options, "backward")(g, y, x, mean, root * scale, shift, slope)
    return dx, product * root, total, more[0] if more else None


_norm.defvjp(_norm_fwd, _norm_bwd)


@dataclasses.dataclass(frozen=True)
class _Pool:
    instructions: str
    rows: int
    columns: int


@functools.cache
def _pool_call(options: _Pool, what: str) -> Callable:
    """forward: x -> y. keep: x -> y, where the largest were. backward: that, g -> dx."""
    target = f"cnnjax_{options.instructions}_max_pool_{'backward' if what == 'backward' else 'forward'}"

    def call(*arrays):
        n, rows, columns, channels = arrays[0].shape
        if what == "backward":
            return (jax.ffi.ffi_call(target, kernels.float32(n, options.rows, options.columns, channels))(*arrays),)
        shape = n, -(-rows // 2), -(-columns // 2), channels
        kept = (jax.ShapeDtypeStruct(shape, jnp.uint8),) if what == "keep" else ()
        return tuple(jax.ffi.ffi_call(target, (kernels.float32(*shape), *kept))(*arrays))

    name = "_".join(map(str, ("max_pool", what, *dataclasses.astuple(options))))
    return kernels.divisible(name, call, (True,) * (1 + (what == "backward")), (True,) * (1 + (what == "keep")))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(options, x):
    return _pool_call(options, "forward")(x)[0]


_pool.defvjp(lambda options, x: _pool_call(options, "keep")(x),
             lambda options, code, g: _pool_call(options, "backward")(code, g))  # fmt: skip
