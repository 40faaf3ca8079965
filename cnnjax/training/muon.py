"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose singular values are brought near 1."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnnjax.kernels import PLAIN, Ops

RMS = 0.2  # root mean square of an update, about that of Adam, so that learning rate and decay mean the same (arXiv:2502.16982)


class MuonState(NamedTuple):
    """The momentum, of the parameters' shapes."""

    mu: optax.Updates


def labels_of(params: dict) -> dict:
    """Returns "muon" for kernels of dense layers and of convolutions of several channels, "adam" for the last layer and all others."""

    def label(path, param):
        kernel = param.ndim == 2 or (param.ndim == 4 and param.shape[2] > 1)
        return "muon" if kernel and path[0].key != "outputs" else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def scale_by_muon(momentum: float) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of gradients of kernels, before the learning rate; [h, w, in, out] is taken as a matrix [h * w * in, out].

    Its update takes `ops` too, which compute the matrices.

    Args:
        momentum: of Nesterov's kind; decay of the gradients' moving average.
    """

    def update(grads, state, params=None, *, ops: Ops = PLAIN, **other):
        del params, other
        mu = averaged(state.mu, grads)
        return jax.tree.map(lambda x: _scaled(x, ops), averaged(mu, grads)), MuonState(mu)

    def averaged(mu, grads):
        return jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, mu, grads)

    return optax.GradientTransformationExtraArgs(lambda params: MuonState(jax.tree.map(jnp.zeros_like, params)), update)


def _scaled(x: jax.Array, ops: Ops) -> jax.Array:
    matrix = x.reshape(-1, x.shape[-1])
    return (RMS * math.sqrt(max(matrix.shape)) * ops.orthogonal(matrix)).reshape(x.shape)
