"""Checkpoints brought back to predict with."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import checkpoints, models, runtime
from cnnjax import config as config_lib
from cnnjax.config import Config, Preprocessing
from cnnjax.inference.engine import Engine, compile_logits, evaluated
from cnnjax.runs import RunDirectory


@dataclasses.dataclass(frozen=True)
class RestoredNetwork:
    """A checkpoint brought back to predict with.

    Attributes:
        engine: network and weights.
        config: as trained, with the caller's overrides; its `image` section is that of the preprocessing.
        preprocessing: the steps from a file to the network's input, as the checkpoint says.
        classes: names in the order of the probabilities.
        positive: index of the positive class of a two-class task; -1 for more classes.
        step: which checkpoint.
        splits_sha256: digest of the split that it was trained on.
    """

    engine: Engine
    config: Config
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    positive: int
    step: int
    splits_sha256: str


def restore(workdir: str | Path, step: str | int = "best", overrides: Mapping[str, Any] | None = None) -> RestoredNetwork:
    """Restores the network of a run on this process's devices, whatever devices trained it.

    Args:
        workdir: a run directory, wherever it was moved.
        step: "best", "latest" or a number.
        overrides: config values to change, such as {"data.path": ...}.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: an override that is wrong, or a checkpoint of a newer version.
    """
    overrides = overrides or {}
    # In this machine's place, not in that of the machine that trained.
    runtime.keep_compiled(overrides.get("data.cache_dir") or config_lib.default().data.cache_dir)
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        step = saved.resolve(step)
        metadata = saved.metadata(step)
        config = config_lib.from_dict(metadata["config"], overrides)
        preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
        config = with_preprocessing(config, preprocessing)
        mesh = runtime.mesh(config.runtime.devices)
        network = models.network(
            config, len(metadata["classes"]), runtime.ops(config.runtime, runtime.platform_of(mesh)), preprocessing
        )
        shapes = network.abstract(mesh, ema=bool(config.train.ema_decay))
        model = evaluated(**saved.load(step, {"model": shapes})["model"])
    engine = Engine(compile_logits(network, mesh), model, mesh)
    return RestoredNetwork(
        engine, config, preprocessing, tuple(metadata["classes"]), metadata["positive"], step, metadata["splits_sha256"]
    )


def with_preprocessing(config: Config, preprocessing: Preprocessing) -> Config:
    """Returns the config with the `image` section of a checkpoint's preprocessing."""
    image = dataclasses.replace(config.image, size=preprocessing.size, width=preprocessing.width, resize=preprocessing.resize, range=preprocessing.range,
                                zca=preprocessing.zca)  # fmt: skip
    return dataclasses.replace(config, image=image)
