"""The operations of `Ops` by kernels for CPUs, each where its shapes and types allow it."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax.kernels import adam, blocks, depthwise, library, normed, positions, sampling
from cnnjax.kernels.blocks import Block
from cnnjax.kernels.ops import Ops, Padding, sides

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

    def conv(self, x: jax.Array, w: jax.Array, *, stride: int, dtype) -> jax.Array:
        if x.dtype == dtype == jnp.float32 and x.shape[1] > 1 and normed.supports_conv(x.shape, w.shape, stride):
            return normed.conv(x, w, stride=stride)
        return super().conv(x, w, stride=stride, dtype=dtype)

    def depthwise(self, x: jax.Array, w: jax.Array, *, stride: int, padding: Padding, dtype) -> jax.Array:
        if x.dtype == dtype == jnp.float32 and depthwise.supports(x.shape, w.shape, stride, sides(padding)):
            return depthwise.depthwise(x, w, stride=stride, padding=sides(padding))
        return super().depthwise(x, w, stride=stride, padding=padding, dtype=dtype)

    def batch_norm(self, x: jax.Array, scale: jax.Array, bias: jax.Array, more: jax.Array | None = None, *, epsilon: float,
                   relu: bool, dtype, out_dtype) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
        if x.dtype == dtype == out_dtype == jnp.float32 and normed.supports_norm(x.shape):
            return normed.batch_norm(x, scale, bias, more, epsilon=epsilon, relu=relu)
        return super().batch_norm(x, scale, bias, more, epsilon=epsilon, relu=relu, dtype=dtype, out_dtype=out_dtype)

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
        if x.dtype == jnp.float32 and normed.supports_max_pool(x.shape, (window, stride, padding)):
            return normed.max_pool(x)
        return super().max_pool(x, window, stride, padding)

    def dense(self, x: jax.Array, w: jax.Array, b: jax.Array, *, dtype) -> jax.Array:
        if w.shape[0] < WIDE or not blocks.supports_dense(x.shape, w.shape):
            return super().dense(x, w, b, dtype=dtype)
        half = dtype == jnp.bfloat16
        x = x if blocks.rounds(half, self.name) else x.astype(jnp.float32)
        return blocks.dense(x, w, bfloat16=half) + b[None]

    def sample(self, images: jax.Array, factors: jax.Array, *, fraction: int, interpolation: str, fill: str) -> jax.Array:
        if not sampling.supports(images.shape):
            return super().sample(images, factors, fraction=fraction, interpolation=interpolation, fill=fill)
        return _sample(images, factors, fraction, interpolation, fill)

    def adam_update(self, factors: jax.Array, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, *, beta1: float,
                    beta2: float, epsilon: float, decay: float) -> tuple[jax.Array, jax.Array, jax.Array] | None:  # fmt: skip
        if not adam.supports(p.shape):
            return None
        return adam.update(factors, g, p, m, v, beta1=beta1, beta2=beta2, epsilon=epsilon, decay=decay)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _sample(images, factors, fraction, interpolation, fill):
    return sampling.sample(images, factors, bits=fraction + 1, interpolation=interpolation, fill=fill)


@_sample.defjvp
def _sample_jvp(fraction, interpolation, fill, arrays, tangents):
    def plain(images, factors):
        return positions.sampled(images, factors, fraction, interpolation, fill)

    return _sample(*arrays, fraction, interpolation, fill), jax.jvp(plain, arrays, tangents)[1]
