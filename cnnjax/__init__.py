"""cnnjax: from a folder of labelled images to a classifier you can defend.

    config = cnnjax.load_config("configs/malaria.py", {"data.path": "cell_images.zip"})
    cnnjax.explore(config, "runs/cells")
    summary = cnnjax.train(config, "runs/cells")
    cnnjax.evaluate("runs/cells", split="test")
    cnnjax.load("runs/cells").predict(["cell.png"])

Importing the package is cheap: JAX and the others are imported when a function first needs them.
"""

import importlib
import sys
import types

__version__ = "0.1.0"

_EXPORTS = {
    "load_config": "config",
    "train": "train",
    "evaluate": "evaluate",
    "load": "predict",
    "Classifier": "predict",
    "describe": "describe",
    "explore": "explore",
    "write_report": "report",
    "compare_runs": "report",
    "UserError": "errors",
    "Stopped": "errors",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'cnnjax' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"cnnjax.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Keeps `cnnjax.train` a function after somebody imports the module cnnjax.train, which Python would bind here."""

    def __setattr__(self, name, value):
        if not (name in _EXPORTS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__():
    return __all__
