"""Configs as JSON in a run's directory: written, read back, compared."""

import json
import re
from collections.abc import Mapping
from typing import Any

from cnnjax.config.keys import AUTO
from cnnjax.config.sections import KEYS, SECTIONS, Config, flatten
from cnnjax.config.settings import default, finish, override
from cnnjax.errors import ConfigError

# Where a run may differ from the one it continues: places and appearances, nothing that changes a number.
FREE_TO_CHANGE = ("data.path", "data.root", "data.url", "data.cache_dir", "data.placement", "log.every", "log.tensorboard",
                  "runtime.devices", "runtime.keep_memory", "runtime.kernels", "runtime.workers",
                  "train.checkpoint_every", "split.file", "split.folds", "split.repeats", "mesh.fsdp", "name", "data.metadata",
                  "evidence.level", "evidence.prevalence", "evidence.calibration", "evidence.threshold", "evidence.bootstrap",
                  "audit.stop", "audit.turns")  # fmt: skip
# Leaves the decision to the program, which has decided when the run began: `splits.csv` is not made again.
DECIDED = (("split.method", "auto"),)


def to_json(config: Config) -> str:
    """Returns the config as indented JSON with sorted keys; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2)


def from_dict(tree: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Config:
    """Reverses `to_json` (after `json.loads`), with overrides; a key that is missing has its default.

    Raises:
        ConfigError: every unknown key, wrong type or value, one line each.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a config is sections by name, not {repr(tree)[:60]}; restore the file that it comes from")
    overrides = overrides or {}
    config = override(override(default(), dict(flatten(_renamed(tree)))), overrides)
    if config.image.size == AUTO or config.image.resize == "auto":  # of a run the weights have been asked
        raise ConfigError("image.size and image.resize of a run are never auto; restore its config from a copy")
    return finish(config, overrides)


def completed(tree: Any) -> dict[str, Any]:
    """Returns the nested tree of a `config.json` of any version, with the default of each key that it lacks.

    Raises:
        ConfigError: it is not a tree of sections, or a value has another type than its key.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError("not an object")
    whole = json.loads(to_json(Config()))
    for key, value in flatten(_renamed(tree)):
        try:
            if key in SECTIONS or not isinstance(whole.get(key.rpartition(".")[0], {}), dict):
                raise TypeError
            if key in KEYS:
                KEYS[key].convert(value)
        except TypeError:
            raise ConfigError(
                f"{key}={str(value)[:80]}: must be {KEYS[key].allowed if key in KEYS else 'a section'}"
            ) from None
        section, _, name = key.rpartition(".")
        (whole.setdefault(section, {}) if section else whole)[name] = value
    return whole


def _renamed(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the tree of a config of any version with the keys of this one."""
    train, model = tree.get("train"), tree.get("model")
    if isinstance(train, Mapping) and train.get("ema_decay") and "ema_statistics" not in train:
        train = {**train, "ema_statistics": False}
        tree = {**tree, "train": train}
    if not isinstance(train, Mapping) or "init_from" not in train or not isinstance(model, Mapping):
        return tree
    rest = {key: value for key, value in train.items() if key != "init_from"}
    began = {"weights": f"run:{train['init_from']}"} if train["init_from"] else {}
    return {**tree, "train": rest, "model": {**model, **began}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns lines "key: old -> new" of the values that differ and matter to a run's numbers.

    A key that is missing, as in a run of an older version, has its default.
    """
    standard = dict(flatten(json.loads(to_json(Config()))))
    old, new = ({**standard, **dict(flatten(_renamed(tree)))} for tree in (old, new))
    for values in (old, new):
        values["data.group"] = re.sub(r"^\(\?P<\w+>(.*)\)$", r"\1", values["data.group"])  # a name alone changes no group
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in FREE_TO_CHANGE and (key, new.get(key)) not in DECIDED
    ]
