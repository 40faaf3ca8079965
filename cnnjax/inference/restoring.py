"""Checkpoints brought back to predict with."""

import dataclasses
from pathlib import Path

from cnnjax import checkpoints, models, runtime
from cnnjax import config as config_lib
from cnnjax.inference.engine import Engine, compile_logits, evaluated
from cnnjax.runs import RunDirectory


@dataclasses.dataclass(frozen=True)
class RestoredNetwork:
    """A checkpoint brought back to predict with.

    Attributes:
        engine: network and weights.
        config: as trained, with the caller's overrides.
        classes: names in the order of the probabilities.
        positive: index of the positive class of a two-class task.
        step: which checkpoint.
    """

    engine: Engine
    config: object
    classes: tuple[str, ...]
    positive: int
    step: int


def restore(workdir: str | Path, step: str | int = "best", overrides: dict | None = None) -> RestoredNetwork:
    """Restores the network of a run on this process's devices, whatever devices trained it.

    Args:
        workdir: a run directory, wherever it was moved.
        step: "best", "latest" or a number.
        overrides: config values to change, such as {"data.path": ...}.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
    """
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        step = saved.resolve(step)
        metadata = saved.metadata(step)
        config = config_lib.from_dict(metadata["config"], overrides)
        mesh = runtime.mesh(config.runtime.devices)
        network = models.network(config, len(metadata["classes"]), runtime.ops(config.runtime, runtime.platform_of(mesh)))
        model = evaluated(**saved.load(step, {"model": network.abstract(mesh, ema=bool(config.train.ema_decay))})["model"])
    engine = Engine(compile_logits(network, mesh), model, mesh)
    return RestoredNetwork(engine, config, tuple(metadata["classes"]), metadata["positive"], step)
