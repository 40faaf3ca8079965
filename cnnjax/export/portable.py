"""A network with its weights in NumPy, in plain JAX and float32: what every format is written from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.export.card import Card
from cnnjax.models import Layered, Network


@dataclasses.dataclass(frozen=True)
class Portable:
    """A network to export.

    Attributes:
        network: its structure in plain JAX, computing in float32.
        arrays: {"params", "stats"} of NumPy arrays.
        card: the facts about it.
    """

    network: Network
    arrays: dict[str, Any]
    card: Card

    @classmethod
    def of(cls, network: Network, model: dict[str, Any], card: Card) -> "Portable":
        """Returns a network with arrays that are no longer of any device."""
        return cls(network, jax.tree.map(np.asarray, model), card)

    @property
    def module(self) -> Layered:
        """The network as an object, in evaluation."""
        return nnx.merge(self.network.eval_def, self.arrays["params"], self.arrays["stats"])

    @property
    def function(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 [n, height, width, 3] -> calibrated probabilities, float32 [n, classes]; the weights are constants in it."""
        network, arrays, card = self.network, self.arrays, self.card

        def probabilities(images: jax.Array) -> jax.Array:
            logits = nnx.merge(network.eval_def, arrays["params"], arrays["stats"])(images)
            logits = jnp.float32(card.scale) * logits
            if logits.shape[-1] == 1:
                p = jax.nn.sigmoid(logits + jnp.float32(card.intercept))
                return jnp.concatenate([1 - p, p], -1)
            return jax.nn.softmax(logits, -1)

        return probabilities
