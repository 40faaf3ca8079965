"""Losses of a step: from logits and the probabilities that the labels stand for to a number for each example."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cnnjax import config

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Cross-entropy in natural logarithms: float32 [b].

    Args:
        logits: float32 [b, classes], or [b, 1] of the second of two classes.
        probabilities: float32 [b, classes], of labels that are mixed or smoothed; each row has the sum 1.
    """
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], probabilities[:, 1])
    return optax.softmax_cross_entropy(logits, probabilities)


def cross_entropy_of_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`cross_entropy` of labels that are neither mixed nor smoothed, with fewer operations: int32 labels [b] -> float32 [b]."""
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def focal(logits: jax.Array, probabilities: jax.Array, *, gamma: float) -> jax.Array:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002), without its weights of classes: `train.class_weights` has these.

    Args:
        logits, probabilities: as of `cross_entropy`.
        gamma: the cross-entropy of a class of probability p counts (1 - p) ** gamma times; 0: as it is.
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    found = jax.nn.log_softmax(logits)
    # Not 1 - exp(found): the gradient of a power of 0 is not a number.
    others = jnp.maximum(-jnp.expm1(found), jnp.finfo(jnp.float32).tiny)
    return -(probabilities * others**gamma * found).sum(-1)


LOSSES: dict[str, Callable[..., jax.Array]] = {"cross_entropy": cross_entropy, "focal": focal}


def find_loss(section) -> Loss:
    """Returns the loss of the `train` section: one of `LOSSES`, or one of the user's own, "FILE.py:NAME".

    Raises:
        ConfigError: no such file or name.
    """
    if section.loss == "focal":
        return functools.partial(focal, gamma=section.focal_gamma)
    return LOSSES.get(section.loss) or config.load_own(section.loss)


def predicted(logits: jax.Array) -> jax.Array:
    """The most probable class: int32 [b], of logits as in `cross_entropy`."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)
