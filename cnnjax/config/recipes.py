"""Recipes: how to train from drawn weights in a given time, found by measuring. A recipe sets the network, its images and its training."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config.keys import AUTO
from cnnjax.config.presets import PRESETS
from cnnjax.config.sections import SECTIONS, Train
from cnnjax.errors import ConfigError

WHOLE = ("model", "augment", "optimizer")  # sections that a recipe sets from the start
LENGTH = ("epochs", "patience", "shown", "sizes", "label_smoothing", "ema_decay", "precision")  # and keys of `train`

_PHOTOS: dict[str, Any] = {
    "image.resize": "bilinear",
    "image.views": "mirrored",
    "augment.flip_horizontal": True,
    "augment.crop_area": 0.25,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 2e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 3.0,
    "train.epochs": AUTO,
    "train.patience": 0,
    "train.label_smoothing": 0.1,
    "train.ema_decay": 0.995,
}
_CELLS: dict[str, Any] = _PHOTOS | {f"augment.{name}": value for name, value in PRESETS["cells"].items()} | {
    "augment.crop_area": 1.0, "augment.saturation": 0.0, "image.views": "turned"}  # fmt: skip

# Minutes are those of the photos and cells of docs/results.md on two cores.
RECIPES: dict[str, dict[str, Any]] = {
    "photos_2min": _PHOTOS | {"model.name": "resnet10_half", "image.size": 80, "train.sizes": (48, 64), "train.shown": 90_000},
    "photos_10min": _PHOTOS | {"model.name": "resnet10_half", "image.size": 128, "train.sizes": (64, 80, 96), "train.shown": 200_000},
    "cells_2min": _CELLS | {"model.name": "resnet10_half", "image.size": 64, "train.shown": 100_000},
}  # fmt: skip


def set_recipe(config: ConfigDict, name: str) -> ConfigDict:
    """Sets network, images, augmentation, optimizer and length of the training in place to a recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"recipe={name!r}: use one of {', '.join(RECIPES)}{hint}")
    for section in WHOLE:
        config[section].update(SECTIONS[section]())
    config.train.update({key: Train()[key] for key in LENGTH})
    config.image.width = 0
    for key, value in RECIPES[name].items():
        section, _, leaf = key.partition(".")
        config[section][leaf] = value
    return config
