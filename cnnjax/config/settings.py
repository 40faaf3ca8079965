"""The mutable config that files and overrides work on, and the way from it to the frozen `Config`.

Every config file starts from `default()`, which is locked: a key that does not exist fails in a file as it does on
the command line, and so does another type.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config import validation
from cnnjax.config.own import split_own
from cnnjax.config.presets import set_preset
from cnnjax.config.recipes import set_recipe
from cnnjax.config.sections import KEYS, SECTIONS, Config
from cnnjax.errors import ConfigError

MOVED = {"train.init_from": "--config.model.weights=run:DIR"}  # keys of older versions


def default() -> ConfigDict:
    """Returns the default config, locked: keys cannot be added and types cannot change."""
    config = ConfigDict({name: ConfigDict() for name in SECTIONS})
    for name, key in KEYS.items():
        section, _, leaf = name.rpartition(".")
        (config[section] if section else config)[leaf] = key.default
    return config.lock()


def notes() -> dict[str, str]:
    """Returns the meaning of each key, by "section.key"."""
    return {name: key.note for name, key in KEYS.items()}


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Sets values in place, and returns the config.

    Args:
        config: from `default`.
        overrides: {"section.key": value}; text is parsed as the type of the key. {"recipe": name} and {"augment": name} set
            whole sections to a preset first.

    Raises:
        ConfigError: every unknown key and wrong type, one line each.
    """
    overrides, problems = _sides(overrides), []
    for name, preset in (
        ("recipe", set_recipe),
        ("augment", set_preset),
    ):  # before single keys, wherever they stand among them
        if name in overrides:
            try:
                preset(config, str(overrides.pop(name)))
            except ConfigError as error:
                problems.append(str(error))
    for name, value in overrides.items():
        if name not in KEYS:
            problems.append(str(unknown_key(name)))
            continue
        section, _, leaf = name.rpartition(".")
        try:
            (config[section] if section else config)[leaf] = KEYS[name].convert(value)
        except TypeError:
            problems.append(f"{name}={value!r}: must be {KEYS[name].allowed}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _sides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with an image.size of two numbers as two keys; one number is the side of a square."""
    found = dict(overrides)
    if "image.size" in found:
        size = found["image.size"]
        parts = (
            size.strip("()[] ").split(",") if isinstance(size, str) else size if isinstance(size, (tuple, list)) else [size]
        )
        if len(parts) == 2:
            found["image.size"], found["image.width"] = parts
        else:
            found.setdefault("image.width", 0)
    return found


def nearest(key: str) -> list[str]:
    """Returns the keys with the last name of `key`, with its initials, as in "lr", or with more words, as in "flip"."""
    last, leaves = key.rpartition(".")[2], {name: name.rpartition(".")[2] for name in KEYS}
    same = [name for name, leaf in leaves.items() if last in (leaf, "".join(word[0] for word in leaf.split("_")))]
    return same or [name for name, leaf in leaves.items() if leaf.startswith(f"{last}_")]


def unknown_key(key: str) -> ConfigError:
    """Returns the error for a key that does not exist: the nearest valid ones, and how to see all."""
    if inside := [name for name in KEYS if name.startswith(f"{key}.")]:
        return ConfigError(f"{key!r} is a section of the config; set one of its keys: {', '.join(inside)}")
    near = list(dict.fromkeys(nearest(key) + difflib.get_close_matches(key, KEYS, 3, 0.6)))[:3]
    if key in MOVED:
        return ConfigError(f"{key!r} is {MOVED[key]} now")
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return ConfigError(f"unknown config key {key!r}{hint} python launch.py --help lists all {len(KEYS)}")


def finish(config: Mapping[str, Any] | ConfigDict, given: Collection[str] = ()) -> Config:
    """Freezes a config and checks it; see `validation.validate`.

    Paths of the user's own code become absolute, so that a run evaluates from every folder.
    """
    config = {name: dict(value) if name in SECTIONS else value for name, value in config.items()}
    for name, key in KEYS.items():
        section, _, leaf = name.rpartition(".")
        if key.own and (own := split_own(config[section][leaf])):
            config[section][leaf] = f"{own[0].resolve()}:{own[1]}"
    for name in ("size", "resize"):  # auto, and no weights to ask
        key = KEYS[f"image.{name}"]
        if not config["model"]["weights"] and config["image"][name] in key.words.values():
            config["image"][name] = key.default
    sections = {name: section(**config[name]) for name, section in SECTIONS.items()}
    frozen = Config(name=config["name"], seed=config["seed"], **sections)
    validation.validate(frozen, given)
    return frozen
