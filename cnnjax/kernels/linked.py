"""Convolutions of one pixel, or with a kernel for each channel, with batch normalisation after each, in training; see `cnnjax.kernels`.

The second applies the norm between the two as it reads its input, so the images are not read and written for it. Gradients are of reverse mode
and of first order; a batch that is divided among devices stays divided, and then statistics are those of the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels.blocks import BLOCK
from cnnjax.kernels.convs import ACTIVATIONS, Sides, conv_output, is_product, supports_conv, supports_depthwise


class Link(NamedTuple):
    """A convolution without a bias, the batch normalisation that follows it, and an activation."""

    w: jax.Array  # float32 [kernel, kernel, ci, co]; ci is 1 where each channel has a kernel of its own
    scale: jax.Array  # float32 [co]
    bias: jax.Array  # float32 [co]
    stride: int
    padding: Sides
    epsilon: float
    activation: str  # one of `ACTIVATIONS`

    @property
    def is_depthwise(self) -> bool:
        return self.w.shape[2] == 1

    def output(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of the result for images of a height and width."""
        return conv_output((0, *size), self.w.shape, self.stride, self.padding)[1:3]


Gate = Callable[[jax.Array], jax.Array]  # float32 [n, channels] -> the same
NORMS = (False, False, False, True)  # of mean, scale, bias and gate, which has the batch as its first dimension


class _Norm(NamedTuple):
    """(y - mean) * scale + bias of an output, all [channels]."""

    mean: jax.Array
    scale: jax.Array
    bias: jax.Array


def supports_chain(x_shape: tuple[int, ...], links: Sequence[Link], *, gated: bool = False) -> bool:
    """Whether `chain` takes these: each convolution has one pixel and channels that are multiples of 4, or a kernel for each channel.

    With a gate there are two or more, the last of all channels.
    """
    return not _chain_problem(x_shape, links, gated=gated)


def chain(x: jax.Array, links: Sequence[Link], more: jax.Array | None = None, gate: Gate | None = None
          ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:  # fmt: skip
    """Applies convolutions, each normalised by the statistics of this batch and activated; at last adds `more`.

    Args:
        x: float32 [n, h, w, channels].
        links: at least one, two with a gate; the last has no activation where something is added.
        more: float32 of the shape of the result, or nothing.
        gate: makes factors [n, channels] of the means of each image; the input of the last convolution is multiplied by them.

    Returns:
        float32 [n, h', w', co]; and for each link the mean and variance, [its channels], through which no gradients go.

    Raises:
        ValueError: `supports_chain` is False, or another type or shape.
    """
    problem = _chain_problem(x.shape, links, gated=gate is not None)
    for i, link in enumerate(links, 1):
        arrays = {"x": x, "w": link.w, "scale": link.scale, "bias": link.bias}
        if not problem and (problem := kernels.type_problem(arrays)) and len(links) > 1:
            problem = f"link {i}: {problem}"
        if not problem and not (link.scale.shape == link.bias.shape == link.w.shape[3:]):
            problem = f"scale is {list(link.scale.shape)} and bias is {list(link.bias.shape)}; give {list(link.w.shape[3:])}"
    if not problem and more is not None:
        problem = _sum_problem(x.shape, links, more)
    if problem:
        raise ValueError(f"chain: {problem}")
    instructions, norm, activation, found = kernels.usable("chain"), None, "none", []
    for i, link in enumerate(links, 1):
        options = _Conv(instructions, link.stride, (*link.padding[0], *link.padding[1]), activation)
        if gate and i == len(links):
            mean = jax.ShapeDtypeStruct((x.shape[0], x.shape[3]), jnp.float32)
            function, constants = jax.closure_convert(gate, mean)
            x, total, squares = _gated(options, function, x, norm, constants, link.w)
        else:
            x, total, squares = _link(options, x, norm, link.w)
        count = np.float32(x.size // x.shape[-1])
        mean = total / count
        var = jnp.maximum(squares / count - mean**2, 0)
        norm = _Norm(mean, lax.rsqrt(var + np.float32(link.epsilon)) * link.scale, link.bias)
        activation = link.activation
        found.append((lax.stop_gradient(mean), lax.stop_gradient(var)))
    return _last_norm(_LastNorm(instructions, activation), x, norm, more), found


def _chain_problem(x: tuple[int, ...], links: Sequence[Link], *, gated: bool) -> str:
    if len(links) < 1 + gated:
        return f"{len(links)} links; give one or more, two with a gate"
    if gated and links[-1].is_depthwise:
        return f"w is {list(links[-1].w.shape)} behind a gate; give a convolution of all channels"
    for link in links:
        supports = supports_depthwise if link.is_depthwise else supports_conv
        if not supports(x, link.w.shape, link.stride, link.padding):
            return f"x is {list(x)} and w is {list(link.w.shape)}; let JAX compute these layers"
        if not link.is_depthwise and not (is_product(link.w.shape, link.stride) and not any(map(any, link.padding))):
            return f"w is {list(link.w.shape)}; give a kernel of one pixel, or one for each channel"
        if link.activation not in ACTIVATIONS:
            return f"activation={link.activation}; give one of {', '.join(ACTIVATIONS)}"
        x = conv_output(x, link.w.shape, link.stride, link.padding)
    return ""


def _sum_problem(x: tuple[int, ...], links: Sequence[Link], more: jax.Array) -> str:
    for link in links:
        x = conv_output(x, link.w.shape, link.stride, link.padding)
    if more.shape != x:
        return f"more is {list(more.shape)}; give {list(x)}"
    if links[-1].activation != "none":
        return f"activation={links[-1].activation} of a link that something is added to; give none"
    return kernels.type_problem({"more": more})


def supports_mlp(x_shape: tuple[int, ...], w1_shape: tuple[int, ...], w2_shape: tuple[int, ...]) -> bool:
    """Whether `mlp` takes these: places beside the batch, and channels that are multiples of 4, 16 or more."""
    return not _mlp_problem(x_shape, w1_shape, w2_shape)


def mlp(x: jax.Array, w1: jax.Array, b1: jax.Array, w2: jax.Array, b2: jax.Array, *, activation: str) -> jax.Array:
    """Applies two dense layers at each place: activation(x @ w1 + b1) @ w2 + b2.

    Args:
        x: float32 [n, ..., k].
        w1, b1: float32 [k, wide] and [wide].
        w2, b2: float32 [wide, units] and [units].
        activation: one of `ACTIVATIONS`.

    Returns:
        float32 [n, ..., units].

    Raises:
        ValueError: `supports_mlp` is False, or another type or shape.
    """
    problem = _mlp_problem(x.shape, w1.shape, w2.shape)
    problem = problem or kernels.type_problem({"x": x, "w1": w1, "b1": b1, "w2": w2, "b2": b2})
    if not problem and (b1.shape, b2.shape) != (w1.shape[1:], w2.shape[1:]):
        problem = f"b1 is {list(b1.shape)} and b2 is {list(b2.shape)}; give {list(w1.shape[1:])} and {list(w2.shape[1:])}"
    if not problem and activation not in ACTIVATIONS:
        problem = f"activation={activation}; give one of {', '.join(ACTIVATIONS)}"
    if problem:
        raise ValueError(f"mlp: {problem}")
    first = _Conv(kernels.usable("mlp"), 1, (0, 0, 0, 0), "none", sums=False)
    (wide,) = _link(first, x.reshape(x.shape[0], -1, 1, x.shape[-1]), None, w1[None, None])
    bias = _Norm(jnp.zeros_like(b1), jnp.ones_like(b1), b1)  # a norm that only adds
    (y,) = _link(dataclasses.replace(first, activation=activation), wide, bias, w2[None, None])
    return y.reshape(*x.shape[:-1], -1) + b2.reshape((1,) * (x.ndim - 1) + (-1,))


def _mlp_problem(x: tuple[int, ...], w1: tuple[int, ...], w2: tuple[int, ...]) -> str:
    if len(x) < 3 or len(w1) != 2 or len(w2) != 2 or (x[-1], w1[1]) != (w1[0], w2[0]):
        return f"x is {list(x)}, w1 is {list(w1)} and w2 is {list(w2)}; give [n, ..., k], [k, wide] and [wide, units]"
    for channels in (*w1, w2[1]):
        if channels % 4 or channels < BLOCK:
            return f"{channels} channels; give a multiple of 4, {BLOCK} or more, or let JAX compute these layers"
    return kernels.size_problem(x, w1, w2)


@dataclasses.dataclass(frozen=True)
class _Conv:
    instructions: str
    stride: int
    padding: tuple[int, int, int, int]
    activation: str  # of the input
    sums: bool = True  # whether a norm follows

    def name(self, what: str) -> str:
        return "_".join(
            map(str, ("linked", what, self.instructions, self.stride, *self.padding, self.activation, self.sums))
        )

    def attributes(self) -> dict[str, np.generic | np.ndarray]:
        return {"stride": np.int64(self.stride), "padding": np.array(self.padding, np.int64),
                "activation": np.int64(ACTIVATIONS.index(self.activation))}  # fmt: skip


@functools.cache
def _forward(options: _Conv, norms: int) -> Callable:
    """x, w[, mean, scale, bias[, gate]] -> y[, its sum, that of its squares]."""
    target, sums = f"cnnjax_{options.instructions}_linked_forward", 2 * options.sums

    def call(x, w, *norm):
        top, bottom, left, right = options.padding
        shape = conv_output(x.shape, w.shape, options.stride, ((top, bottom), (left, right)))
        kinds = (kernels.float32(*shape), *(kernels.float32(shape[3]),) * sums)
        return tuple(jax.ffi.ffi_call(target, kinds)(x, w, *norm, **options.attributes()))

    return kernels.divisible(options.name(f"forward_{norms}"), call, (True, False, *NORMS[:norms]), (True, *(False,) * sums))


@functools.cache
def _backward(options: _Conv, norms: int) -> Callable:
    """x, w, g[, y, shift, slope][, mean, scale, bias[, gate]] -> dx, dw[, the gradients of the norm's scale and bias, or of the gate]."""
    target = f"cnnjax_{options.instructions}_linked_backward"
    attributes = options.attributes() | {"sums": np.bool_(options.sums)}

    def call(x, w, *rest):
        more = {0: (), 3: (x.shape[3:],) * 2, 4: ((x.shape[0], x.shape[3]),)}[norms]
        kinds = tuple(kernels.float32(*shape) for shape in (x.shape, w.shape, *more))
        return tuple(jax.ffi.ffi_call(target, kinds)(x, w, *rest, **attributes))

    operands = (True, False, True, *((True, False, False) if options.sums else ()), *NORMS[:norms])
    results = (True, False, *{0: (), 3: (False, False), 4: (True,)}[norms])
    return kernels.divisible(options.name(f"backward_{norms}"), call, operands, results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _link(options, x, norm, w):
    norm = norm or ()
    return _forward(options, len(norm))(x, w, *norm)


def _link_fwd(options, x, norm, w):
    found = _link(options, x, norm, w)
    return found, (x, norm, w, found[0] if options.sums else None)


def _link_bwd(options, saved, gradients):
    x, norm, w, y = saved
    dx, dw, *own = _backward(options, len(norm or ()))(x, w, *_incoming(y, *gradients), *(norm or ()))
    return dx, norm and _norm_gradient(norm, *own), dw


_link.defvjp(_link_fwd, _link_bwd)


def _incoming(y, g, *sums):
    """The gradient of an output, and what that of its sums adds."""
    return (g, y, sums[0], 2 * sums[1]) if sums else (g,)


def _norm_gradient(norm: _Norm, along: jax.Array, offset: jax.Array) -> _Norm:
    return _Norm(-norm.scale * offset, along, offset)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gated(options, function, x, norm, constants, w):
    return _gated_fwd(options, function, x, norm, constants, w)[0]


def _gated_fwd(options, function, x, norm, constants, w):
    """The norm, what `function` makes of its means, and the convolution: each reads x, and nothing between them is stored."""
    end = _LastNorm(options.instructions, options.activation)
    (mean,) = _last_norm_call(end, "squeeze", 0)(x, *norm)
    gate, pull = jax.vjp(lambda mean, constants: function(mean, *constants), mean, constants)
    found = _forward(options, 4)(x, w, *norm, gate)
    return found, (x, norm, gate, pull, w, found[0])


def _gated_bwd(options, function, saved, gradients):
    x, norm, gate, pull, w, y = saved
    dz, dw, dgate = _backward(options, 4)(x, w, *_incoming(y, *gradients), *norm, gate)
    dmean, dconstants = pull(dgate)
    end = _LastNorm(options.instructions, options.activation)
    dx, *own = _last_norm_call(end, "backward", 2)(x, dz, *norm, gate, dmean / np.float32(x.shape[1] * x.shape[2]))
    return dx, _norm_gradient(norm, *own), dconstants, dw


_gated.defvjp(_gated_fwd, _gated_bwd)


@dataclasses.dataclass(frozen=True)
class _LastNorm:
    instructions: str
    activation: str


@functools.cache
def _last_norm_call(options: _LastNorm, what: str, more: int) -> Callable:
    """forward: x, mean, scale, bias[, more] -> y. backward: x, g, mean, scale, bias[, gate, gradient of means] -> dx, those of scale and bias.
    squeeze: x, mean, scale, bias -> means."""  # fmt: skip
    target = f"cnnjax_{options.instructions}_{'squeeze' if what == 'squeeze' else f'last_norm_{what}'}"

    def call(x, *rest):
        channels = x.shape[-1:]
        shapes = {"forward": (x.shape,), "backward": (x.shape, channels, channels), "squeeze": (x.shape[:1] + channels,)}[
            what
        ]
        kinds = tuple(kernels.float32(*shape) for shape in shapes)
        return tuple(jax.ffi.ffi_call(target, kinds)(x, *rest, activation=np.int64(ACTIVATIONS.index(options.activation))))

    name = "_".join(map(str, ("last_norm", what, *dataclasses.astuple(options), more)))
    operands = (True, *(True,) * (what == "backward"), False, False, False, *(True,) * more)
    return kernels.divisible(name, call, operands, (True, False, False)[: 3 if what == "backward" else 1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _last_norm(options, x, norm, more):
    return _last_norm_call(options, "forward", int(more is not None))(x, *norm, *(() if more is None else (more,)))[0]


def _last_norm_fwd(options, x, norm, more):
    return _last_norm(options, x, norm, more), (x, norm, more is not None)


def _last_norm_bwd(options, saved, g):
    x, norm, adds = saved
    dx, *own = _last_norm_call(options, "backward", 0)(x, g, *norm)
    return dx, _norm_gradient(norm, *own), g if adds else None


_last_norm.defvjp(_last_norm_fwd, _last_norm_bwd)
