"""Losses of a step: from logits and the probabilities that the labels stand for to a number for each example."""

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


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}


def find_loss(name: str) -> Loss:
    """Returns a loss of `LOSSES`, or one of the user's own, "FILE.py:NAME". Raises ConfigError where there is none."""
    return LOSSES.get(name) or config.load_own(name)


def predicted(logits: jax.Array) -> jax.Array:
    """The most probable class: int32 [b], of logits as in `cross_entropy`."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)
