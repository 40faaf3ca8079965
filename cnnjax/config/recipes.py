"""Recipes: how to train from drawn weights in a given time, found by measuring. A recipe sets the network, its images and its training."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config.keys import AUTO, LAST
from cnnjax.config.presets import PRESETS
from cnnjax.config.sections import SECTIONS, Train
from cnnjax.errors import ConfigError

WHOLE = ("model", "augment", "optimizer")  # sections that a recipe sets from the start
KEPT = (
    "monitor",
    "loss",
    "focal_gamma",
    "class_weights",
    "accumulate",
    "checkpoint_every",
)  # keys of `train` that it leaves alone

_ALL: dict[str, Any] = {
    "data.batch_size": 32,
    "image.resize": "bilinear",
    "model.name": "resnet10_half",
    "optimizer.schedule": "cosine",
    "train.epochs": AUTO,
    "train.evaluate_every": AUTO,
    "train.patience": 0,
    "train.label_smoothing": 0.1,
    "train.ema_decay": 0.995,
}
_CELLS: dict[str, Any] = {
    "image.size": 64,
    "image.views": "turned",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 2e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.warmup_epochs": 1.0,
    **{f"augment.{name}": value for name, value in PRESETS["cells"].items()},
}
_PHOTOS: dict[str, Any] = {
    "image.size": 128,
    "image.views": "mirrored",
    "optimizer.name": "muon",
    "optimizer.learning_rate": 3e-3,
    "optimizer.beta1": 0.95,
    "optimizer.weight_decay": 0.15,
    "optimizer.warmup_epochs": 3.0,
    "train.monitor": LAST,
    "train.scales": (0.5, 0.75, 0.875),
    "augment.flip_horizontal": True,
    "augment.crop_area": 0.25,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
}

# Minutes are about those of training on 2,560 photos and 7,438 cells; docs/results.md has what was measured.
RECIPES: dict[str, dict[str, Any]] = {
    "cells_3min": {**_ALL, **_CELLS, "train.shown": 83_000},
    "photos_2min": {
        **_ALL,
        **_PHOTOS,
        "image.size": 80,
        "train.scales": (0.8,),
        "train.shown": 36_000,
        "optimizer.warmup_epochs": 1.0,
    },
    "photos_10min": {**_ALL, **_PHOTOS, "train.shown": 128_000},
    "photos_60min": {
        **_ALL,
        **_PHOTOS,
        "model.name": "resnet18_half",
        "image.size": 160,
        "train.scales": (0.4, 0.6, 0.8),
        "train.shown": 250_000,
    },
}


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
    config.train.update({key: value for key, value in Train().items() if key not in KEPT})
    config.image.width = 0
    if config.train.monitor == LAST:  # of the recipe before
        config.train.monitor = Train().monitor
    for key, value in RECIPES[name].items():
        section, _, leaf = key.partition(".")
        config[section][leaf] = value
    return config
