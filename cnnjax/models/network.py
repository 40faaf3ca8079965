"""Networks taken apart into structure and state, so that plain functions of plain dicts compute with them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import runtime
from cnnjax.errors import DataError
from cnnjax.models.registry import MODELS, outputs_for


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
    """Returns the shapes of `tree`, each with its sharding on the mesh."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=runtime.placed(mesh, x.shape)), tree)


def shardings(tree, mesh: jax.sharding.Mesh):
    """Returns the sharding on the mesh of every array, or shape, of `tree`."""
    return jax.tree.map(lambda x: runtime.placed(mesh, x.shape), tree)


def precision(config) -> str:
    """Returns the type that the network computes in: `train.precision`, but float32 with batch normalisation in the CPU's kernels.

    Of such networks the kernels know float32 alone, and on a CPU XLA's bfloat16 is slow: a step of resnet18 took 2.2 times as
    long, of configs/folder.py 1.4, of configs/digits.py 1.1.
    """
    normed = config.model.name != "convnet" or config.model.norm == "batch"
    return "float32" if normed and runtime.kernels(config) != "xla" else config.train.precision


def network(config, classes: int) -> Network:
    """Returns the network of a config for a number of classes; computes nothing yet.

    Raises:
        DataError: the images are too small for it.
    """
    options = dict(outputs=outputs_for(classes), size=config.image.size, config=config.model,
                   zca=config.image.zca, dtype=jnp.dtype(precision(config)))  # fmt: skip

    native = runtime.kernels(config) != "xla"

    def build():
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), 0))
        model = MODELS[config.model.name](**options, rngs=rngs)
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
