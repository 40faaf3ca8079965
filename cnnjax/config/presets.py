"""Presets of the `augment` section; a key that a preset does not name is off."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from cnnjax.config.sections import Augment
from cnnjax.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # The three layers of the TensorFlow image classification tutorial.
    "tutorial": {"flip_horizontal": True, "rotation": 36.0, "zoom": 0.1},
    # The options of Keras' ImageDataGenerator in the malaria exercise. Its ZCA whitening is image.zca, which holds for
    # every image and not for training only.
    "keras_generator": {"flip_horizontal": True, "flip_vertical": True, "rotation": 20.0, "shift": 0.05, "stretch": 0.05,
                        "shear": 5.0, "brightness": 0.1, "channel_shift": 10.0, "fill": "nearest"},
    "light": {"flip_horizontal": True, "rotation": 15.0, "zoom": 0.15, "shift": 0.08, "brightness": 0.15, "contrast": 0.15,
              "saturation": 0.15},
    "strong": {"flip_horizontal": True, "crop_area": 0.4, "rotation": 20.0, "shear": 8.0, "brightness": 0.3, "contrast": 0.3,
               "saturation": 0.3, "hue": 0.03, "grey": 0.05, "erase": 0.25, "cutmix": 1.0, "mixup": 0.2},
    # Cells have no upright side, stains vary from smear to smear, and around a cell there is black.
    "cells": {"flip_horizontal": True, "flip_vertical": True, "turns": True, "rotation": 45.0, "zoom": 0.1, "shift": 0.03,
              "brightness": 0.1, "contrast": 0.1, "stain": 0.03, "fill": "constant"},
}  # fmt: skip


def set_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets the whole `augment` section in place to a preset. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"augment={name!r}: use one of {', '.join(PRESETS)}{hint}")
    config.augment.update({**Augment(), **PRESETS[name]})
    return config
