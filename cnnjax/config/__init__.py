"""The tree of a run's settings: defaults, presets, loading, checks."""

from cnnjax.config.tree import default, load_config, set_preset, unknown_variant

__all__ = ["default", "load_config", "set_preset", "unknown_variant"]
