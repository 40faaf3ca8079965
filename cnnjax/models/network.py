"""Networks taken apart into structure and state, so that plain functions of plain dicts compute with them."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from cnnjax import runtime
from cnnjax.config import Config, Model, Preprocessing, load_own, split_own
from cnnjax.errors import ConfigError, DataError
from cnnjax.kernels import Ops
from cnnjax.models.layers import Layered
from cnnjax.models.registry import MODELS, outputs_for
from cnnjax.streams import Stream

CONTRACT = "a subclass of cnnjax.models.Layered that takes (outputs, section, *, preprocessing, dtype, ops, rngs)"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network taken apart: its structure for training and for evaluation, and the shapes of its state."""

    train_def: nnx.GraphDef
    eval_def: nnx.GraphDef
    make: Callable[[], tuple[dict, dict]]  # initial (params, stats)
    model: nnx.Module  # abstract, for tables
    shapes: tuple[dict, dict]  # of (params, stats)
    classes: int
    ops: Ops  # what computes its steps

    def abstract(self, mesh: jax.sharding.Mesh, *, ema: bool = False, statistics: bool = True) -> dict:
        """{"params", "stats", "ema"} of shapes, with the shardings to restore to.

        Args:
            mesh: of the shardings.
            ema: there are moving averages.
            statistics: these are of the statistics too; see `train.ema_statistics`.
        """
        params, stats = self.shapes
        return with_shardings(
            {"params": params, "stats": stats, "ema": averages(params, stats, statistics) if ema else {}}, mesh
        )

    def norms(self) -> dict[tuple, tuple[str, ...]]:
        """Returns path of each batch normalisation -> names of its parameters."""
        found = ((path, module) for path, module in nnx.iter_modules(self.model) if isinstance(module, nnx.BatchNorm))
        return {path: tuple(nnx.to_pure_dict(nnx.state(module, nnx.Param))) for path, module in found}

    def holding(self, norms: Collection[tuple]) -> Self:
        """Returns the network whose batch normalisation at the paths `norms` uses its running averages, and keeps them, in training too."""
        view = nnx.view(self.model, deterministic=False, use_running_average=False, raise_if_not_found=False)
        for path, module in nnx.iter_modules(view):
            if path in norms:
                module.use_running_average = True
        return dataclasses.replace(self, train_def=nnx.split(view, nnx.Param, ...)[0])

    def settled(self, before: dict, after: dict, updates: jax.Array) -> dict:
        """Returns the statistics after an update, where running averages are plain means of their first updates.

        An average with decay m that begins at 0 or 1 is still 35 % that after ten updates at m = 0.9, which is all the
        training that a small set may get. Until 1 / (1 - m) updates the decay is t / (t + 1) instead, as of a mean; from there
        on nothing is changed, not by a bit.

        Args:
            before, after: statistics, as from `make`.
            updates: int32, updates before this one.
        """
        t = updates.astype(jnp.float32)
        flat = dict(traverse_util.flatten_dict(after))
        old = traverse_util.flatten_dict(before)
        for path, module in nnx.iter_modules(self.model):
            if not isinstance(module, nnx.BatchNorm):
                continue
            share = (1 / (t + 1)) / (1 - module.momentum)  # of the new value, over what the module has given it
            for name in ("mean", "var"):
                place = (*path, name)
                mean = old[place] + share * (flat[place] - old[place])
                flat[place] = jnp.where(share > 1, mean, flat[place])
        return traverse_util.unflatten_dict(flat)


def averages(params: dict, stats: dict, statistics: bool) -> dict:
    """Returns in one tree what moving averages are kept of: parameters, and statistics where they are averaged too."""
    kept = traverse_util.flatten_dict(params) | (traverse_util.flatten_dict(stats) if statistics else {})
    return traverse_util.unflatten_dict(kept)


def with_shardings(tree, mesh: jax.sharding.Mesh):
    """Returns the shapes of `tree`, each with its sharding on the mesh."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=runtime.placed(mesh, x.shape)), tree)


def shardings(tree, mesh: jax.sharding.Mesh):
    """Returns the sharding on the mesh of every array, or shape, of `tree`."""
    return jax.tree.map(lambda x: runtime.placed(mesh, x.shape), tree)


def find_network(section: Model) -> Callable[..., Layered]:
    """Returns the network of a `model` section: a row of `MODELS`, or a class of the user's own file.

    Raises:
        ConfigError: no such file or class, or a class that is not a network.
    """
    if not split_own(section.name):
        return MODELS[section.name]
    found = load_own(section.name)
    if not (isinstance(found, type) and issubclass(found, Layered)):
        raise ConfigError(f"model.name={section.name}: this is not a network; write {CONTRACT}")
    return found


def precision(config: Config, ops: Ops) -> str:
    """Returns the type that the network computes in: `train.precision`, but float32 with batch normalisation in the CPU's kernels.

    Of such networks the kernels know float32 alone, and on a CPU XLA's bfloat16 is slow: a step of resnet18 took 2.2 times as
    long, of configs/folder.py 1.4, of configs/digits.py 1.1.
    """
    made = find_network(config.model)
    has_norm = getattr(made, "func", made).has_norm(config.model)
    return "float32" if has_norm and type(ops) is not Ops else config.train.precision


def network(config: Config, classes: int, ops: Ops, preprocessing: Preprocessing | None = None) -> Network:
    """Returns the network of a config; computes nothing yet.

    Args:
        config: its `model` section and seed, and `image` where no preprocessing is given.
        classes: how many.
        ops: what computes, from `runtime.ops` for the platform that the steps are compiled for.
        preprocessing: of the images; that of a checkpoint, or nothing.

    Raises:
        DataError: the images are too small for the network.
        ConfigError: a network of the user's own that does not fit.
    """
    section, made = config.model, find_network(config.model)
    options = dict(preprocessing=preprocessing or Preprocessing.of(config.image), dtype=jnp.dtype(precision(config, ops)),
                   ops=ops)  # fmt: skip

    def build():
        return made(outputs_for(classes), section, **options, rngs=_rngs(config.seed))

    def make():
        _, params, stats = nnx.split(build(), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def definition(training: bool):
        view = nnx.view(model, deterministic=not training, use_running_average=not training, raise_if_not_found=False)
        return nnx.split(view, nnx.Param, ...)[0]

    try:
        model = nnx.eval_shape(build)
    except Exception as error:
        said = " ".join(str(error).split())
        if split_own(section.name):
            raise ConfigError(f"model.name={section.name}: {type(error).__name__}: {said}; write {CONTRACT}") from error
        if not isinstance(error, ValueError):
            raise
        fewer = "" if hasattr(getattr(made, "func", made), "reads") else " or use fewer --config.model.channels"
        raise DataError(f"images of {options['preprocessing'].size} pixels are too small for this network: {error}; enlarge "
                        f"--config.image.size{fewer}") from None  # fmt: skip
    _, params, stats = nnx.split(model, nnx.Param, ...)
    shapes = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    return Network(definition(True), definition(False), make, model, shapes, classes, ops)


class _Stream(nnx.RngStream):
    """A stream of keys that counts in a plain number. Flax's count is an array, which takes half of the time to trace a deep network."""

    drawn = 0

    def __call__(self) -> jax.Array:
        """Returns the next key, the one that `nnx.RngStream` would return."""
        self.drawn += 1
        return jax.random.fold_in(self.key[...], self.drawn - 1)


def _rngs(seed: int) -> nnx.Rngs:
    """The streams of initial weights."""
    rngs = nnx.Rngs(0)
    rngs.default = _Stream(jax.random.fold_in(jax.random.key(seed), Stream.WEIGHTS), tag="default")
    return rngs
