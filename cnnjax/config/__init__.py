"""The settings of a run: typed sections of keys, presets, config files, checks, and `Preprocessing`."""

from cnnjax.config.files import bundled, load_config, unknown_variant
from cnnjax.config.keys import AUTO, LAST
from cnnjax.config.methods import unread
from cnnjax.config.origin import Origin
from cnnjax.config.own import load_own, split_own
from cnnjax.config.preprocessing import Preprocessing
from cnnjax.config.presets import PRESETS, set_preset
from cnnjax.config.recipes import RECIPES, set_recipe
from cnnjax.config.records import FREE_TO_CHANGE, completed, differences, from_dict, to_json
from cnnjax.config.sections import (
    KEYS,
    Augment,
    Config,
    Data,
    Evidence,
    Image,
    Log,
    Mesh,
    Model,
    Optimizer,
    Probe,
    Runtime,
    Section,
    Split,
    Train,
    flatten,
)
from cnnjax.config.settings import default, finish, nearest, notes, override
from cnnjax.config.trust import remember, unknown
from cnnjax.config.validation import idle, interval, validate, without_effect

__all__ = [
    "AUTO", "FREE_TO_CHANGE", "KEYS", "LAST", "PRESETS", "RECIPES", "Augment", "Config", "Data", "Evidence", "Image", "Log", "Mesh", "Model", "Optimizer", "Origin", "Preprocessing", "Probe", "Runtime", "Section", "Split", "Train", "bundled", "completed", "default", "differences", "finish", "flatten",
    "from_dict", "idle", "interval", "load_config", "load_own", "nearest", "notes", "override", "remember", "set_preset", "set_recipe", "split_own", "to_json",
    "unknown", "unknown_variant", "unread", "validate", "without_effect",
]  # fmt: skip
