"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose singular values are brought near 1."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# The quintic of the Newton-Schulz iteration, by Jordan: singular values between 0 and 1 get between 0.7 and 1.2 in five turns.
A, B, C = 3.4445, -4.7750, 2.0315
TURNS = 5
RMS = 0.2  # root mean square of an update, about that of Adam, so that learning rate and decay mean the same (arXiv:2502.16982)


class MuonState(NamedTuple):
    """The momentum, of the parameters' shapes."""

    mu: optax.Updates


def orthogonal(x: jax.Array) -> jax.Array:
    """Returns a matrix with the singular vectors of another and singular values near 1, as far as these were not next to zero.

    The iteration runs on the Gram matrix of the shorter side, of which all powers commute: a third of the multiplications that it takes on
    the matrix itself.

    Args:
        x: [m, n], float32.
    """
    if x.shape[0] < x.shape[1]:
        return orthogonal(x.T).T
    x = x / (jnp.linalg.norm(x) + 1e-7)
    gram = x.T @ x
    factor = product = _factor(gram)
    for _ in range(TURNS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = product @ factor
    return x @ product


def _factor(gram: jax.Array) -> jax.Array:
    """What a turn of the iteration multiplies the matrix of a Gram matrix with."""
    return A * jnp.eye(len(gram), dtype=gram.dtype) + B * gram + C * (gram @ gram)


def labels_of(params: dict) -> dict:
    """Returns "muon" for kernels of dense layers and of convolutions of several channels, "adam" for the last layer and all others."""

    def label(path, param):
        kernel = param.ndim == 2 or (param.ndim == 4 and param.shape[2] > 1)
        return "muon" if kernel and path[0].key != "outputs" else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def scale_by_muon(momentum: float) -> optax.GradientTransformation:
    """Returns the transformation of gradients of kernels, before the learning rate; [h, w, in, out] is taken as a matrix [h * w * in, out].

    Args:
        momentum: of Nesterov's kind; decay of the gradients' moving average.
    """

    def update(grads, state, params=None):
        del params
        mu = averaged(state.mu, grads)
        return jax.tree.map(_scaled, averaged(mu, grads)), MuonState(mu)

    def averaged(mu, grads):
        return jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, mu, grads)

    return optax.GradientTransformation(lambda params: MuonState(jax.tree.map(jnp.zeros_like, params)), update)


def _scaled(x: jax.Array) -> jax.Array:
    matrix = x.reshape(-1, x.shape[-1])
    return (RMS * math.sqrt(max(matrix.shape)) * orthogonal(matrix)).reshape(x.shape)
