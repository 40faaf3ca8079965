"""The training state: everything that one step hands to the next."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from cnnjax.errors import DataError
from cnnjax.models import registry as models
from cnnjax.runtime import processes as runtime
from cnnjax.training.optimizers import Optimizer


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

    def trees(self) -> dict[str, dict]:
        """Returns the state as a checkpoint holds it: {"model", "optimizer"}."""
        return {"model": {"params": self.params, "stats": self.stats, "ema": self.ema},
                "optimizer": {"step": self.step, "opt_state": self.opt_state, "sums": self.sums, "scale": self.scale}}  # fmt: skip

    @classmethod
    def of(cls, trees: dict[str, dict]) -> "TrainState":
        """Returns the state of the trees of a checkpoint."""
        return cls(**trees["model"], **trees["optimizer"])


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
