"""The training state: everything that one step hands to the next."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from cnnjax import runtime
from cnnjax.models import Network, averages
from cnnjax.training.finetuning import PartlyFrozen
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
    ema: dict  # moving averages of params and stats, in one tree: statistics of one network fit no other; {} without train.ema_decay

    def trees(self) -> dict[str, dict]:
        """Returns the state as a checkpoint holds it: {"model", "optimizer"}."""
        return {"model": {"params": self.params, "stats": self.stats, "ema": self.ema},
                "optimizer": {"step": self.step, "opt_state": self.opt_state, "sums": self.sums, "scale": self.scale}}  # fmt: skip

    @classmethod
    def of(cls, trees: dict[str, dict]) -> "TrainState":
        """Returns the state of the trees of a checkpoint."""
        return cls(**trees["model"], **trees["optimizer"])


def bytes_per_device(tree, mesh: jax.sharding.Mesh) -> int:
    """Memory that one device needs for its parts of the arrays, or shapes, of `tree`."""
    parts = (math.prod(runtime.placed(mesh, x.shape).shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
    return sum(parts)


def initial(network: Network, tx: Optimizer | PartlyFrozen, *, ema: bool = False, statistics: bool = True) -> TrainState:
    """The state before the first step; jit it with shardings. `ema` and `statistics` are as of `Network.abstract`."""
    params, stats = network.make()
    average = jax.tree.map(jnp.copy, averages(params, stats, statistics)) if ema else {}
    return TrainState(
        jnp.zeros((), jnp.int32), params, stats, tx.init(params), no_sums(), jnp.ones((), jnp.float32), average
    )


def no_sums() -> dict:
    """The sums at the beginning of an epoch; NumPy, because these can go to the devices of other processes too."""
    return {name: np.zeros((), np.float32) for name in ("loss", "correct", "count")}
