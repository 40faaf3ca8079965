"""Squares of an image as a layer, a dense layer at each place, and how the weights of networks begin that are made of them."""

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.kernels import Ops

DRAWN = nnx.initializers.normal(0.02)  # the references cut it off at +-2, which is a hundred deviations
OPTIONS = {"param_dtype": jnp.float32, "kernel_init": DRAWN}


class Patches(nnx.Conv):
    """Convolution of squares that do not overlap, as a product of matrices; pixels left over at the right and bottom are not seen.

    [b, h, w, channels] -> [b, h // side, w // side, out].
    """

    def __init__(self, channels: int, out: int, side: int, dtype, ops: Ops, rngs: nnx.Rngs):
        super().__init__(channels, out, (side, side), side, padding="VALID", dtype=dtype, rngs=rngs, **OPTIONS)
        self.ops = ops

    def __call__(self, x: jax.Array) -> jax.Array:
        side, *_, channels, out = self.kernel.shape
        b, h, w = x.shape[0], x.shape[1] // side, x.shape[2] // side
        x = x[:, : h * side, : w * side].astype(self.dtype).reshape(b, h, side, w, side, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, side * side * channels)
        return self.ops.dense(x, self.kernel[...].reshape(side * side * channels, out), self.bias[...], dtype=self.dtype)


class Dense(nnx.Linear):
    """A dense layer at each place: [b, ..., channels] -> [b, ..., out]."""

    def __init__(self, channels: int, out: int, dtype, ops: Ops, rngs: nnx.Rngs):
        super().__init__(channels, out, dtype=dtype, rngs=rngs, **OPTIONS)
        self.ops = ops

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.ops.dense(x, self.kernel[...], self.bias[...], dtype=self.dtype)


def mlp(first: Dense, second: Dense, x: jax.Array) -> jax.Array:
    """Applies two dense layers at each place, with a GELU between them: [b, ..., channels] -> [b, ..., out]."""
    arrays = (layer[...] for dense in (first, second) for layer in (dense.kernel, dense.bias))
    return first.ops.mlp(x, *arrays, dtype=first.dtype, activation="gelu")
