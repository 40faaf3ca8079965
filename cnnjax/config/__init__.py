"""The settings of a run: sections of keys, presets, config files, checks, and `Preprocessing`."""

from cnnjax.config.preprocessing import Preprocessing
from cnnjax.config.tree import (
    FREE_TO_CHANGE,
    PRESETS,
    default,
    differences,
    finish,
    flatten,
    from_dict,
    idle,
    load_config,
    notes,
    override,
    set_preset,
    to_json,
    unknown_variant,
    validate,
)
from cnnjax.config.validation import interval, without_effect

__all__ = [
    "FREE_TO_CHANGE", "PRESETS", "Preprocessing", "default", "differences", "finish", "flatten", "from_dict", "idle",
    "interval", "load_config", "notes", "override", "set_preset", "to_json", "unknown_variant", "validate",
    "without_effect",
]  # fmt: skip
