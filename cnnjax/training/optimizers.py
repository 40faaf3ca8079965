"""Optimizers and learning rate schedules, by the `optimizer` section of a config."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from cnnjax.kernels import PLAIN, Ops
from cnnjax.training.muon import labels_of, scale_by_muon


def _adam(section) -> list[optax.GradientTransformation]:
    return [optax.scale_by_adam(section.beta1, section.beta2, section.epsilon)]


def _decay(section) -> list[optax.GradientTransformation]:
    kernels = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    return [optax.add_decayed_weights(section.weight_decay, mask=kernels)]


def _adamw(section) -> list[optax.GradientTransformation]:
    return [*_adam(section), *_decay(section)]


def _sgd(section) -> list[optax.GradientTransformation]:
    return [optax.trace(section.beta1, nesterov=True)]


def _muon(section) -> list[optax.GradientTransformation]:
    parts = {"muon": scale_by_muon(section.beta1), "adam": optax.chain(*_adam(section))}
    return [optax.partition(parts, labels_of), *_decay(section)]


# Section -> what makes an update of a gradient, before the learning rate.
OPTIMIZERS: dict[str, Callable[..., list[optax.GradientTransformation]]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "muon": _muon,
}


def _constant(section, steps_per_epoch: int, steps: int) -> optax.Schedule:
    return optax.constant_schedule(section.learning_rate)


def _cosine(section, steps_per_epoch: int, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(section.learning_rate, max(steps, 1))


def _step(section, steps_per_epoch: int, steps: int) -> optax.Schedule:
    between = max(round(section.decay_epochs * steps_per_epoch), 1)
    return optax.exponential_decay(section.learning_rate, between, section.decay_factor, staircase=True)


# Section, steps of an epoch, steps after the warm-up -> step -> learning rate. On a plateau the loop sets `TrainState.scale`.
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
    "plateau": _constant,
}


def make_schedule(section, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """Returns step -> learning rate, by the `optimizer` section. `TrainState.scale` is a factor on it."""
    warmup = round(section.warmup_epochs * steps_per_epoch)
    base = SCHEDULES[section.schedule](section, steps_per_epoch, epochs * steps_per_epoch - warmup)
    if not warmup:
        return base
    return optax.join_schedules([optax.linear_schedule(0.0, section.learning_rate, warmup), base], [warmup])


FUSED = ("adam", "adamw")  # the kernels know their update


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax, and its update in one pass over the memory of a CPU."""

    frozen: ClassVar[frozenset] = frozenset()  # it trains all parameters that it is given; see `finetuning.PartlyFrozen`
    until: ClassVar[int] = 0
    section: object  # the `optimizer` section
    rate: optax.Schedule
    transformation: optax.GradientTransformationExtraArgs
    factors: Mapping[tuple, float]  # path of a parameter -> factor on its learning rate; of others it is 1

    def init(self, params: dict) -> optax.OptState:
        """Returns the optimizer's state before the first update."""
        return self.transformation.init(params)

    def update(self, grads: dict, opt_state: optax.OptState, params: dict, scale: jax.Array, *, ops: Ops = PLAIN
               ) -> tuple[dict, optax.OptState]:  # fmt: skip
        """Returns new parameters, and the optimizer's new state.

        Args:
            grads, opt_state, params: as for optax; the state is the same with all `ops`.
            scale: factor on the learning rate.
            ops: what updates large parameters, where it can; kernels for one device only.
        """
        updates, after = self.transformation.update(grads, opt_state, params, ops=ops)
        of = {factor: scale * factor if factor != 1 else scale for factor in {1.0, *self.factors.values()}}
        factors = jax.tree_util.tree_map_with_path(lambda path, p: self.factors.get(tuple(k.key for k in path), 1.0), params)
        new = jax.tree.map(lambda p, u, factor: p + of[factor] * u, params, updates, factors)
        if not ops.has_adam or self.section.name not in FUSED:
            return new, after
        place = next(i for i, part in enumerate(after) if isinstance(part, optax.ScaleByAdamState))
        before, moments, section = opt_state[place], after[place], self.section
        count, clip = moments.count.astype(jnp.float32), jnp.float32(1)
        if section.clip_norm:
            clip = jnp.minimum(1, section.clip_norm / optax.tree.norm(grads))
        rate, corrections = (
            self.rate(opt_state[-1].count),
            [1 / (1 - beta**count) for beta in (section.beta1, section.beta2)],
        )
        numbers = {factor: jnp.stack([rate * share, *corrections, clip]).astype(jnp.float32) for factor, share in of.items()}

        def leaf(done, g, p, m, v, factor):
            decay = section.weight_decay if section.name == "adamw" and p.ndim > 1 else 0.0
            updated = ops.adam_update(numbers[factor], g, p, m, v, beta1=section.beta1, beta2=section.beta2, epsilon=section.epsilon,
                                      decay=decay)  # fmt: skip
            return done if updated is None else updated

        # XLA leaves out what optax has for the parameters that are replaced here.
        done = jax.tree.map(lambda *parts: parts, new, moments.mu, moments.nu)
        done = jax.tree.map(lambda g, p, m, v, factor, done: leaf(done, g, p, m, v, factor), grads, params, before.mu, before.nu,
                            factors, done)  # fmt: skip
        new, mu, nu = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), done)
        return new, (*after[:place], moments._replace(mu=mu, nu=nu), *after[place + 1 :])


def no_optimizer(section, rate: optax.Schedule) -> Optimizer:
    """Returns the optimizer of a network whose weights no gradient changes: without a state."""
    return Optimizer(section, rate, optax.with_extra_args_support(optax.identity()), {})


def make_optimizer(section, rate: optax.Schedule, factors: Mapping[tuple, float] = types.MappingProxyType({})) -> Optimizer:
    """Returns the optimizer of the `optimizer` section with a learning rate schedule, and factors on it as in `Optimizer`."""
    clip = [optax.clip_by_global_norm(section.clip_norm)] if section.clip_norm else []
    chain = optax.chain(*clip, *OPTIMIZERS[section.name](section), optax.scale_by_learning_rate(rate))
    return Optimizer(section, rate, optax.with_extra_args_support(chain), factors)
