"""What training carries from step to step, how it is made, and the optimizer that changes it."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from cnnjax.errors import DataError
from cnnjax.kernels import adam
from cnnjax.models import registry as models
from cnnjax.runtime import processes as runtime


@struct.dataclass
class TrainState:
    """Plain nested dicts of arrays: no NNX type reaches jit, a sharding or a checkpoint."""

    step: jax.Array  # int32, updates done
    params: dict  # float32
    stats: dict  # batch statistics and what was fitted to the data; {} without either
    opt_state: optax.OptState
    sums: dict  # {"loss", "correct", "count"} of the epoch so far, float32; saved, so that a stop loses none
    scale: jax.Array  # float32, factor on the learning rate; below 1 after drops on a plateau
    ema: dict  # moving average of params; {} without train.ema_decay


@dataclasses.dataclass(frozen=True)
class Network:
    """A network taken apart: its structure for training and for evaluation, and the shapes of its state."""

    train_def: nnx.GraphDef
    eval_def: nnx.GraphDef
    make: Callable[[], tuple[dict, dict]]  # initial (params, stats)
    model: nnx.Module  # abstract, for tables
    classes: int

    def abstract(self, mesh: jax.sharding.Mesh, *, ema: bool = False) -> dict:
        """{"params", "stats", "ema"} of shapes, with the shardings to restore to."""
        params, stats = jax.eval_shape(self.make)
        return with_shardings({"params": params, "stats": stats, "ema": params if ema else {}}, mesh)


def evaluated(params: dict, stats: dict, ema: dict) -> dict:
    """{"params", "stats"} to evaluate and predict with: the average of the parameters, where there is one."""
    return {"params": ema or params, "stats": stats}


def with_shardings(tree, mesh: jax.sharding.Mesh):
    """Shapes of `tree`, each with its place on the mesh."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=runtime.placed(mesh, x.shape)), tree)


def shardings(tree, mesh: jax.sharding.Mesh):
    """The place on the mesh of every array, or shape, of `tree`."""
    return jax.tree.map(lambda x: runtime.placed(mesh, x.shape), tree)


def bytes_per_device(tree, mesh: jax.sharding.Mesh) -> int:
    """Memory that one device needs for its parts of the arrays, or shapes, of `tree`."""
    parts = (math.prod(runtime.placed(mesh, x.shape).shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
    return sum(parts)


def precision(config) -> str:
    """What the network computes in: `train.precision`, but float32 with batch normalisation beside the CPU's own kernels.

    Of such networks the kernels know float32 alone, and on a CPU XLA's bfloat16 is slow: a step of resnet18 took 2.2 times as
    long, of configs/folder.py 1.4, of configs/digits.py 1.1.
    """
    normed = config.model.name != "convnet" or config.model.norm == "batch"
    return "float32" if normed and runtime.kernels(config) != "xla" else config.train.precision


def network(config, classes: int) -> Network:
    """The network of a config for a number of classes; computes nothing yet. Raises DataError for images that are too small."""
    options = dict(outputs=models.outputs_for(classes), size=config.image.size, config=config.model,
                   zca=config.image.zca, dtype=jnp.dtype(precision(config)))  # fmt: skip

    native = runtime.kernels(config) != "xla"

    def build():
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), 0))
        model = models.MODELS[config.model.name](**options, rngs=rngs)
        model.use_kernels(native)
        return model

    def make():
        _, params, stats = nnx.split(build(), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def definition(training: bool):
        view = nnx.view(model, deterministic=not training, use_running_average=not training, raise_if_not_found=False)
        return nnx.split(view, nnx.Param, ...)[0]

    try:
        model = nnx.eval_shape(build)
    except ValueError as error:
        raise DataError(f"images of {config.image.size} pixels are too small for this network: {error}; enlarge "
                        "--config.image.size or use fewer --config.model.channels") from None  # fmt: skip
    return Network(definition(True), definition(False), make, model, classes)


def schedule(config, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """Step -> learning rate, by the `optimizer` section. Drops on a plateau come on top, through `TrainState.scale`."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = epochs * steps_per_epoch
    base = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "plateau": lambda: optax.constant_schedule(config.learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, max(total - warmup, 1)),
        "step": lambda: optax.exponential_decay(config.learning_rate, max(round(config.decay_epochs * steps_per_epoch), 1),
                                                config.decay_factor, staircase=True),
    }[config.schedule]()  # fmt: skip
    if not warmup:
        return base
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), base], [warmup])


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """optax's, and its update in one pass over the memory of a CPU."""

    config: object  # the `optimizer` section
    rate: optax.Schedule
    transformation: optax.GradientTransformation

    def init(self, params: dict) -> optax.OptState:
        return self.transformation.init(params)

    def update(self, grads: dict, opt_state: optax.OptState, params: dict, scale: jax.Array, *, native: bool = False
               ) -> tuple[dict, optax.OptState]:  # fmt: skip
        """New parameters, and the optimizer's new state.

        Args:
            grads, opt_state, params: as for optax; the state is the same with and without `native`.
            scale: factor on the learning rate.
            native: use `cnnjax.kernels` where they fit; on one device.
        """
        updates, after = self.transformation.update(grads, opt_state, params)
        new = jax.tree.map(lambda p, u: p + scale * u, params, updates)
        if not native or self.config.name == "sgd":
            return new, after
        place = next(i for i, part in enumerate(after) if isinstance(part, optax.ScaleByAdamState))
        before, moments, config = opt_state[place], after[place], self.config
        count, clip = moments.count.astype(jnp.float32), jnp.float32(1)
        if config.clip_norm:
            clip = jnp.minimum(1, config.clip_norm / optax.tree.norm(grads))
        factors = jnp.stack([self.rate(opt_state[-1].count) * scale, 1 / (1 - config.beta1**count), 1 / (1 - config.beta2**count),
                             clip]).astype(jnp.float32)  # fmt: skip

        def leaf(done, g, p, m, v):
            if not adam.supports(p.shape):
                return done
            decay = config.weight_decay if config.name == "adamw" and p.ndim > 1 else 0.0
            return adam.update(
                factors, g, p, m, v, beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon, decay=decay
            )

        # XLA leaves out what optax has for the parameters that are replaced here.
        done = jax.tree.map(lambda *parts: parts, new, moments.mu, moments.nu)
        done = jax.tree.map(lambda g, p, m, v, done: leaf(done, g, p, m, v), grads, params, before.mu, before.nu, done)
        new, mu, nu = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), done)
        return new, (*after[:place], moments._replace(mu=mu, nu=nu), *after[place + 1 :])


def optimizer(config, rate: optax.Schedule) -> Optimizer:
    """The optimizer of the `optimizer` section with a learning rate schedule."""
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "sgd":
        parts.append(optax.trace(config.beta1, nesterov=True))
    else:
        parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.epsilon))
    if config.name == "adamw":
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)))
    return Optimizer(config, rate, optax.chain(*parts, optax.scale_by_learning_rate(rate)))


def initial(network: Network, tx: Optimizer, *, ema: bool = False) -> TrainState:
    """The state before the first step; jit it with shardings."""
    params, stats = network.make()
    average = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(
        jnp.zeros((), jnp.int32), params, stats, tx.init(params), no_sums(), jnp.ones((), jnp.float32), average
    )


def no_sums() -> dict:
    """The sums at the beginning of an epoch; NumPy, because these can go to the devices of other processes too."""
    return {name: np.zeros((), np.float32) for name in ("loss", "correct", "count")}
