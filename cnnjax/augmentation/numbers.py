"""Numbers that are drawn for each image: what switches them on, their range and distribution."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Numbers = dict[str, jax.Array]  # name of a number -> float32 [b], or [b, size]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Facts for an operation, beside images and numbers.

    Attributes:
        config: the `augment` section.
        key: random key of this operation's own draws; None where none is needed.
    """

    config: object
    key: jax.Array | None = None


Change = Callable[[jax.Array, Numbers, Setting], jax.Array]  # float32 images [b, h, w, 3] in [0, 255] -> the same


@dataclasses.dataclass(frozen=True)
class Number:
    """A number, or several, drawn for each image.

    Attributes:
        key: of the `augment` section, which switches it on and gives its range.
        identity: the value that changes nothing.
        low, high: of the range, from the value of `key`.
        kind: uniform; log: uniform in the logarithm; whole: whole numbers; chance: 1 with probability `high`, else 0.
        size: how many per image.
        unit: as it is written behind a value.
        off: the value of `key` that switches it off.
        parts: names of what `size` numbers belong to, for pictures.
        change: of pixels; numbers of one operation share it. None for geometry, which `geometry.compose` puts together.
    """

    key: str
    identity: float
    low: Callable[[float], float]
    high: Callable[[float], float]
    kind: str = "uniform"
    size: int = 1
    unit: str = ""
    off: float = 0.0
    parts: tuple[str, ...] = ()
    change: Change | None = None

    def is_on(self, config) -> bool:
        """Returns whether the `augment` section draws it."""
        return config[self.key] != self.off

    def value(self, u: jax.Array, setting: float) -> jax.Array:
        """Maps uniform numbers in [0, 1) to the distribution, where `setting` is the value of `key`."""
        low, high = self.low(setting), self.high(setting)
        if self.kind == "chance":
            return (u < high).astype(jnp.float32)
        if self.kind == "whole":
            return jnp.floor(low + u * (high - low + 1))
        if self.kind == "log":
            return jnp.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        return low + u * (high - low)


def around(key: str, centre: float, **options) -> Number:
    """A number from [centre - setting, centre + setting]."""
    return Number(key, centre, lambda v: centre - v, lambda v: centre + v, **options)


def chance(key: str, probability: Callable[[float], float] = float, **options) -> Number:
    """1 with a probability that depends on the setting, else 0."""
    return Number(key, 0.0, lambda v: 0.0, probability, "chance", **options)


def up_to(key: str, **options) -> Number:
    """A number from [0, setting]."""
    return Number(key, 0.0, lambda v: 0.0, float, **options)
