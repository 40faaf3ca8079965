"""One verb: compute how sure the numbers of a run are, anew, from the tables of its evaluations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import config as config_lib
from cnnjax import evidence as evidence_lib
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.runs import RunDirectory, check_single

HERE = ("evidence.level", "evidence.prevalence", "evidence.bootstrap")  # the others are used where a network is evaluated


def evidence(workdir: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, evidence_lib.Evidence]:
    """Computes the intervals of every evaluation of a run; returns them by the name of the evaluation.

    Writes `eval/<name>-evidence.json`, and of groups `eval/<name>-groups.csv`. Neither a network nor an image is read. What is overridden
    is kept in `config.json`, for evaluations to come.

    Args:
        workdir: the run directory, of any version.
        overrides: config values of the section `evidence`, such as {"evidence.level": 0.9}.

    Raises:
        ConfigError: an override that is not of this section, or a wrong value.
        CheckpointError: no such run, no evaluation in it, or a damaged one.
    """
    run, overrides = RunDirectory(workdir), overrides or {}
    check_single(run)
    settings = _settings(run, overrides)
    names = [path.stem for path in run.evaluations.glob("*.json") if run.predictions(path.stem).exists()]
    names.sort(key=lambda name: (name == "train", name != "test", name))
    if not names:
        raise CheckpointError(f"{run} has no evaluation; write one with --mode=eval --workdir={run}")
    found = {name: evidence_lib.write_evidence(run, name, settings) for name in names}
    run.keep_settings({key: settings[key.partition(".")[2]] for key in overrides})
    return found


def _settings(run: RunDirectory, overrides: Mapping[str, Any]) -> config_lib.Evidence:
    if other := [key for key in overrides if key in config_lib.KEYS and key not in HERE]:
        raise ConfigError(
            f"--mode=evidence reads tables of evaluations: {other[0]} changes nothing there; leave it out, or use --mode=eval"
        )
    held = {f"evidence.{key}": value for key, value in run.read_config()["evidence"].items()}
    made = config_lib.override(config_lib.override(config_lib.default(), held), overrides)
    values = dict(made["evidence"])
    for key, value in values.items():
        if problem := config_lib.KEYS[f"evidence.{key}"].problem(value):
            raise ConfigError(f"evidence.{key}={value!r}: {problem}")
    return config_lib.Evidence(**values)
