"""Squares of an image as a layer, and how the weights of networks begin that are made of them."""

import jax
import jax.numpy as jnp
from flax import nnx

DRAWN = nnx.initializers.normal(0.02)  # the references cut it off at +-2, which is a hundred deviations
OPTIONS = {"param_dtype": jnp.float32, "kernel_init": DRAWN}


class Patches(nnx.Conv):
    """Convolution of squares that do not overlap, as a product of matrices; pixels left over at the right and bottom are not seen.

    [b, h, w, channels] -> [b, h // side, w // side, out].
    """

    def __init__(self, channels: int, out: int, side: int, dtype, rngs: nnx.Rngs):
        super().__init__(channels, out, (side, side), side, padding="VALID", dtype=dtype, rngs=rngs, **OPTIONS)

    def __call__(self, x: jax.Array) -> jax.Array:
        side, *_, channels, out = self.kernel.shape
        b, h, w = x.shape[0], x.shape[1] // side, x.shape[2] // side
        x = x[:, : h * side, : w * side].astype(self.dtype).reshape(b, h, side, w, side, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, side * side * channels)
        kernel = self.kernel[...].astype(self.dtype).reshape(side * side * channels, out)
        return jnp.dot(x, kernel) + self.bias[...].astype(self.dtype).reshape(1, 1, 1, out)
