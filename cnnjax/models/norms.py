"""Norms without running averages."""

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the last dimension (Ba et al. 2016, arXiv:1607.06450), computed in float32.

    Args:
        channels: of the input.
        dtype: of the result.
        epsilon: keeps the root away from zero.
        rngs: initial values; of the scale ones, of the bias zeros.
    """

    def __init__(self, channels: int, *, dtype, epsilon: float = 1e-6, rngs: nnx.Rngs):
        super().__init__(channels, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)
        self.out_dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., channels] in any floating point type."""
        return super().__call__(x).astype(self.out_dtype)
