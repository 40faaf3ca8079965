"""cnnjax: from a folder of labelled images to a classifier you can defend.

    config = cnnjax.load_config("malaria:demo", {"train.epochs": 5})
    run = cnnjax.train(config, "runs/cells", progress=cnnjax.Console())
    print(run.test["auc"])
    cells = cnnjax.load("runs/cells")
    cells.predict(["cell.png", image, array])
    cells.predict_proba(images)

Importing the package is cheap: JAX and the others are imported when a function first needs them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnjax.commands.compare import compare_runs
    from cnnjax.commands.describe import describe
    from cnnjax.commands.evaluate import evaluate
    from cnnjax.commands.explore import explore
    from cnnjax.commands.lr_find import lr_find
    from cnnjax.commands.predict import predict
    from cnnjax.commands.report import write_report
    from cnnjax.commands.robustness import robustness
    from cnnjax.commands.serve import serve
    from cnnjax.commands.train import train
    from cnnjax.config import Config, load_config
    from cnnjax.errors import Stopped, UserError
    from cnnjax.inference import Classifier, Prediction, Run, load
    from cnnjax.progress import Console
    from cnnjax.studies import crossvalidate

__version__ = "0.1.0"

__all__ = [
    "Classifier", "Config", "Console", "Prediction", "Run", "Stopped", "UserError", "__version__", "compare_runs",
    "crossvalidate", "describe", "evaluate", "explore", "load", "load_config", "lr_find", "predict", "robustness", "serve", "train",
    "write_report",
]  # fmt: skip

_FROM = {  # name -> module that has it
    "Classifier": "inference",
    "Config": "config",
    "Console": "progress",
    "Prediction": "inference",
    "Run": "inference",
    "Stopped": "errors",
    "UserError": "errors",
    "compare_runs": "commands.compare",
    "crossvalidate": "studies",
    "describe": "commands.describe",
    "evaluate": "commands.evaluate",
    "explore": "commands.explore",
    "load": "inference",
    "load_config": "config",
    "lr_find": "commands.lr_find",
    "predict": "commands.predict",
    "robustness": "commands.robustness",
    "serve": "commands.serve",
    "train": "commands.train",
    "write_report": "commands.report",
}


def __getattr__(name: str):
    if name not in _FROM:
        raise AttributeError(f"module 'cnnjax' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"cnnjax.{_FROM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
