"""Checkpoints brought back to predict with."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import checkpoints, models, runtime
from cnnjax import config as config_lib
from cnnjax.config import Config, Preprocessing
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.inference.engine import Engine, compile_logits, evaluated
from cnnjax.inference.reading import Reading, read_reading
from cnnjax.runs import RunDirectory, check_single
from cnnjax.typed import typed


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
        reading: calibration and threshold of this checkpoint, as far as the run has them.
    """

    engine: Engine
    config: Config
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    positive: int
    step: int
    splits_sha256: str
    reading: Reading


@dataclasses.dataclass(frozen=True)
class _Facts:
    """The metadata of a checkpoint that is read here."""

    config: dict
    preprocessing: dict
    classes: tuple[str, ...]
    positive: int
    splits_sha256: str


def restore(workdir: str | Path, step: str | int = "best", overrides: Mapping[str, Any] | None = None, *, trust_code: bool = False
            ) -> RestoredNetwork:  # fmt: skip
    """Restores the network of a run on this process's devices, whatever devices trained it.

    The run may be a stranger's: nothing of it is executed, and it decides nothing about this machine.

    Args:
        workdir: a run directory, wherever it was moved.
        step: "best", "latest" or a number.
        overrides: config values to change, such as {"data.path": ...}.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: an override that is wrong, a checkpoint of a newer version, or code that is not trusted.
    """
    # This machine's place and threads, not those of the machine that trained.
    standard = config_lib.default()
    overrides = {"data.cache_dir": standard.data.cache_dir, "runtime.workers": standard.runtime.workers, **(overrides or {})}
    runtime.keep_compiled(overrides["data.cache_dir"])
    run = RunDirectory(workdir)
    check_single(run)
    with checkpoints.Checkpoints(run) as saved:
        number = saved.resolve(step)
        facts = _facts(run, number, saved.metadata(number))
        if step == "best":
            _check_summary(run, number, facts.classes)
        reading = read_reading(run, facts.positive, number, facts.splits_sha256)
        config, preprocessing = config_lib.from_dict(facts.config, overrides), Preprocessing.from_dict(facts.preprocessing)
        config = config_lib.finish(with_preprocessing(config, preprocessing))
        foreign = config_lib.unknown(config)
        if foreign and not trust_code:
            raise ConfigError(f"{run} names code of its own, {', '.join(foreign.values())}, which no run of yours has used as it is now; if "
                              "you have read it and trust it, add --trust_code")  # fmt: skip
        mesh = runtime.mesh(config.runtime.devices)
        network = models.network(
            config, len(facts.classes), runtime.ops(config.runtime, runtime.platform_of(mesh)), preprocessing
        )
        try:
            shapes = network.abstract(mesh, ema=bool(config.train.ema_decay), statistics=config.train.ema_statistics)
        except (TypeError, ValueError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"the network of checkpoint {number} in {run} cannot be made ({reason}); restore the run"
            ) from error
        model = evaluated(**saved.load(number, {"model": shapes})["model"])
    engine = Engine(compile_logits(network, mesh), model, mesh, network)
    return RestoredNetwork(
        engine, config, preprocessing, facts.classes, facts.positive, number, facts.splits_sha256, reading
    )


def read_preprocessing(workdir: str | Path) -> Preprocessing:
    """Returns the preprocessing of the best checkpoint of a run, which may be a stranger's.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: a checkpoint of a newer version.
    """
    run = RunDirectory(workdir)
    check_single(run)
    with checkpoints.Checkpoints(run) as saved:
        number = saved.resolve("best")
        return Preprocessing.from_dict(_facts(run, number, saved.metadata(number)).preprocessing)


def _facts(run: RunDirectory, step: int, metadata: Mapping[str, Any]) -> _Facts:
    """Returns the metadata of a checkpoint. Raises CheckpointError for what is none."""
    try:
        facts = typed(metadata, _Facts, "metadata")
        config_lib.completed(facts.config)
        few = 2 if facts.positive >= 0 else len(set(facts.classes))
        if (
            len(set(facts.classes)) != len(facts.classes)
            or len(facts.classes) != few
            or few < 2
            or not -1 <= facts.positive < few
        ):
            raise ValueError(f"classes {', '.join(facts.classes[:6])}, positive {facts.positive}")
    except (TypeError, ValueError, KeyError, ConfigError) as error:
        raise CheckpointError(f"checkpoint {step} in {run} is damaged ({error}); restore the run from a copy") from None
    return facts


def _check_summary(run: RunDirectory, step: int, classes: tuple[str, ...]) -> None:
    """Raises CheckpointError where the summary of a finished run and its checkpoints do not agree about the best step."""
    summary = run.read_summary()
    if not summary or not run.has_ended():
        return
    if summary.best_step != step:
        raise CheckpointError(f"{run.summary} says that step {summary.best_step} is the best, the scores of the checkpoints say {step}: one was "
                              f"changed; choose with --step={summary.best_step} or --step={step}")  # fmt: skip
    if summary.classes != classes:
        raise CheckpointError(f"{run.summary} has the classes {', '.join(summary.classes)}, checkpoint {step} has {', '.join(classes)}; "
                              "restore the run from a copy")  # fmt: skip


def with_preprocessing(config: Config, preprocessing: Preprocessing) -> Config:
    """Returns the config with the `image` section of a checkpoint's preprocessing."""
    mean, deviation = (preprocessing.mean, preprocessing.deviation) if preprocessing.is_standardized else ((), ())
    image = dataclasses.replace(config.image, size=preprocessing.size, width=preprocessing.width, resize=preprocessing.resize, range=preprocessing.range,
                                zca=preprocessing.zca, mean=mean, deviation=deviation)  # fmt: skip
    return dataclasses.replace(config, image=image)
