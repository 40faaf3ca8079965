"""The operations of `Ops` by kernels for CPUs, each where its shapes and types allow it."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax.kernels import adam, blocks, convs, library, linked, normed, orthogonal, positions, sampling
from cnnjax.kernels.blocks import Block
from cnnjax.kernels.linked import Gate, Link
from cnnjax.kernels.ops import ACTIVATIONS, Ops, Padding, sides

NONE = ((0, 0), (0, 0))  # padding
WIDE = 1024  # inputs from which on a dense layer is left to the kernels


@dataclasses.dataclass(frozen=True)
class CpuOps(Ops):
    """Operations by the kernels of one instruction set; on one or several devices of a CPU."""

    name: str = dataclasses.field(default_factory=library.instruction_set)
    has_adam = True

    def conv_blocks(self, x: jax.Array, sequence: Sequence[Block], *, dtype, scale: float = 1.0, input_grad: bool = True
                    ) -> jax.Array:  # fmt: skip
        left, half = list(sequence), dtype == jnp.bfloat16
        while left:
            run, shape = [], x.shape
            while left and blocks.supports_block(shape, left[0].w.shape, left[0].padding, left[0].pool_stride):
                run.append(left.pop(0))
                shape = blocks.block_output(shape, run[-1].w.shape, run[-1].padding, run[-1].pool_stride)
            if run:
                x = x if x.dtype == jnp.uint8 else x.astype(jnp.float32)
                x = blocks.conv_blocks(x, run, input_grad=input_grad, scale=scale, bfloat16=half, rounded=half)
            else:
                x = super().conv_blocks(x, [left.pop(0)], dtype=dtype, scale=scale)
            scale, input_grad = 1.0, True
        return x

    def conv(self, x: jax.Array, w: jax.Array, *, stride: int, dtype, padding: Padding | None = None) -> jax.Array:
        zeros = sides(w.shape[0] // 2 if padding is None else padding)
        if x.dtype == dtype == jnp.float32 and _spans(x, w) and convs.supports_conv(x.shape, w.shape, stride, zeros):
            return convs.conv(x, w, stride=stride, padding=zeros)
        return super().conv(x, w, stride=stride, dtype=dtype, padding=padding)

    def depthwise(self, x: jax.Array, w: jax.Array, *, stride: int, padding: Padding, dtype) -> jax.Array:
        zeros = sides(padding)
        if x.dtype == dtype == jnp.float32 and convs.supports_depthwise(x.shape, w.shape, stride, zeros):
            return convs.depthwise(x, w, stride=stride, padding=zeros)
        return super().depthwise(x, w, stride=stride, padding=padding, dtype=dtype)

    def conv_normalize(self, x: jax.Array, w: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array,
                       more: jax.Array | None = None, *, stride: int, padding: Padding, epsilon: float, activation: str,
                       dtype, out_dtype, conv_dtype) -> jax.Array:  # fmt: skip
        zeros, options = sides(padding), {"stride": stride, "padding": sides(padding), "activation": activation}
        is_depthwise = w.shape[2] == 1 < x.shape[3]
        supports = convs.supports_depthwise if is_depthwise else convs.supports_conv
        if not (x.dtype == dtype == out_dtype == conv_dtype == jnp.float32 and supports(x.shape, w.shape, stride, zeros)
                and (is_depthwise or (_spans(x, w) and convs.finishes(x.shape, w.shape, stride, zeros)))
                and activation in convs.ACTIVATIONS):  # fmt: skip
            return super().conv_normalize(x, w, mean, var, scale, bias, more, stride=stride, padding=padding, epsilon=epsilon,
                                          activation=activation, dtype=dtype, out_dtype=out_dtype,
                                          conv_dtype=conv_dtype)  # fmt: skip
        factor = jax.lax.rsqrt(var + epsilon) * scale
        return _finished(tuple(options.items()), x, w * factor[None, None, None], bias - mean * factor, more)

    def chain(self, x: jax.Array, links: Sequence[Link], more: jax.Array | None = None, gate: Gate | None = None, *, dtype, out_dtype,
              conv_dtype) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:  # fmt: skip
        if (x.dtype == dtype == out_dtype == conv_dtype == jnp.float32 and linked.supports_chain(x.shape, links, gated=gate is not None)
                and (more is None or links[-1].activation == "none")):  # fmt: skip
            return linked.chain(x, links, more, gate)
        return super().chain(x, links, more, gate, dtype=dtype, out_dtype=out_dtype, conv_dtype=conv_dtype)

    def batch_norm(self, x: jax.Array, scale: jax.Array, bias: jax.Array, more: jax.Array | None = None, *, epsilon: float,
                   activation: str, dtype, out_dtype) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
        if not (x.dtype == dtype == out_dtype == jnp.float32 and normed.supports_norm(x.shape)):
            return super().batch_norm(x, scale, bias, more, epsilon=epsilon, activation=activation, dtype=dtype,
                                      out_dtype=out_dtype)  # fmt: skip
        inside = activation if activation in normed.ACTIVATIONS else "none"
        y, mean, var = normed.batch_norm(x, scale, bias, more, epsilon=epsilon, activation=inside)
        return (y if inside == activation else ACTIVATIONS[activation](y)), mean, var

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
        if x.dtype == jnp.float32 and normed.supports_max_pool(x.shape, (window, stride, padding)):
            return normed.max_pool(x)
        return super().max_pool(x, window, stride, padding)

    def dense(self, x: jax.Array, w: jax.Array, b: jax.Array, *, dtype, activation: str = "none") -> jax.Array:
        if x.ndim > 2 and x.dtype == dtype == jnp.float32:
            places, kernel = x.reshape(x.shape[0], -1, 1, x.shape[-1]), w[None, None]
            if convs.supports_conv(places.shape, kernel.shape, 1, NONE):
                inside = activation if activation in convs.ACTIVATIONS else "none"
                options = {"stride": 1, "padding": NONE, "activation": inside}
                y = _finished(tuple(options.items()), places, kernel, b, None).reshape(*x.shape[:-1], w.shape[1])
                return y if inside == activation else ACTIVATIONS[activation](y)
        if w.shape[0] < WIDE or not blocks.supports_dense(x.shape, w.shape):
            return super().dense(x, w, b, dtype=dtype, activation=activation)
        half = dtype == jnp.bfloat16
        x = x if blocks.rounds(half, self.name) else x.astype(jnp.float32)
        return ACTIVATIONS[activation](blocks.dense(x, w, bfloat16=half) + b[None])

    def mlp(
        self, x: jax.Array, w1: jax.Array, b1: jax.Array, w2: jax.Array, b2: jax.Array, *, dtype, activation: str
    ) -> jax.Array:
        if not (x.dtype == dtype == jnp.float32 and linked.supports_mlp(x.shape, w1.shape, w2.shape)
                and activation in convs.ACTIVATIONS):  # fmt: skip
            return super().mlp(x, w1, b1, w2, b2, dtype=dtype, activation=activation)
        return _mlp(self, activation, x, w1, b1, w2, b2)

    def sample(self, images: jax.Array, factors: jax.Array, *, fraction: int, interpolation: str, fill: str) -> jax.Array:
        if not sampling.supports(images.shape):
            return super().sample(images, factors, fraction=fraction, interpolation=interpolation, fill=fill)
        return _sample(images, factors, fraction, interpolation, fill)

    def tall_orthogonal(self, x: jax.Array) -> jax.Array:
        return orthogonal.orthogonal(x) if orthogonal.supports(x.shape) else super().tall_orthogonal(x)

    def adam_update(self, factors: jax.Array, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, *, beta1: float,
                    beta2: float, epsilon: float, decay: float) -> tuple[jax.Array, jax.Array, jax.Array] | None:  # fmt: skip
        if not adam.supports(p.shape):
            return None
        return adam.update(factors, g, p, m, v, beta1=beta1, beta2=beta2, epsilon=epsilon, decay=decay)


def _spans(x: jax.Array, w: jax.Array) -> bool:
    """Whether images have more than one row, or the kernel has one: rows of zeros are not worth a kernel of this library."""
    return x.shape[1] > 1 or w.shape[0] == 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _finished(options, x, w, offset, more):
    return convs.finished(x, w, offset, more, **dict(options))


def _finished_fwd(options, *arrays):
    """Computes what `_finished` does step by step: with a gradient, each step keeps what its own needs."""
    stride, padding, activation = (value for _, value in options)

    def steps(x, w, offset, more):
        conv = convs.depthwise if w.shape[2] == 1 < x.shape[3] else convs.conv
        y = conv(x, w, stride=stride, padding=padding) + offset[None, None, None]
        return ACTIVATIONS[activation](y if more is None else y + more)

    return jax.vjp(steps, *arrays)


_finished.defvjp(_finished_fwd, lambda options, pull, g: pull(g))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mlp(ops, activation, *arrays):
    """Two dense layers: without a gradient the first stores what comes behind the activation, which is then computed once."""
    return Ops.mlp(ops, *arrays, dtype=jnp.float32, activation=activation)


_mlp.defvjp(lambda ops, activation, *arrays: jax.vjp(functools.partial(linked.mlp, activation=activation), *arrays),
            lambda ops, activation, pull, g: pull(g))  # fmt: skip


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _sample(images, factors, fraction, interpolation, fill):
    return sampling.sample(images, factors, bits=fraction + 1, interpolation=interpolation, fill=fill)


@_sample.defjvp
def _sample_jvp(fraction, interpolation, fill, arrays, tangents):
    def plain(images, factors):
        return positions.sampled(images, factors, fraction, interpolation, fill)

    return _sample(*arrays, fraction, interpolation, fill), jax.jvp(plain, arrays, tangents)[1]
