"""cnnjax: from a folder of labelled images to a classifier you can defend.

    config = cnnjax.load_config("configs/malaria.py", {"data.path": "cell_images.zip"})
    cnnjax.explore(config, "runs/cells")
    summary = cnnjax.train(config, "runs/cells")
    cnnjax.evaluate("runs/cells", split="test")
    cnnjax.load("runs/cells").predict(["cell.png"])

Importing the package is cheap: JAX and the others are imported when a function first needs them.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "load_config": "config",
    "train": "commands.train",
    "evaluate": "commands.evaluate",
    "load": "inference.classifier",
    "Classifier": "inference.classifier",
    "describe": "commands.describe",
    "explore": "commands.explore",
    "write_report": "commands.report",
    "compare_runs": "commands.compare",
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


def __dir__():
    return __all__
