"""The numbers that `train.epochs=auto` and `train.evaluate_every=auto` stand for."""

import dataclasses
import math

from cnnjax import runs
from cnnjax.config import AUTO

FEWEST, MOST = 5, 300  # of a very large set each image a few times; of a very small one no more than it learns from
EVALUATIONS = 50  # enough to choose the best of; the time of more is better spent on training


def epochs_for(shown: int, images: int) -> int:
    """Returns the epochs of `images` training images that show `shown` images in all, within bounds."""
    return min(max(round(shown / max(images, 1)), FEWEST), MOST)


def epochs_between(train) -> int:
    """Returns the epochs from one evaluation to the next.

    Args:
        train: the section of a config whose number of epochs is known.
    """
    return math.ceil(train.epochs / EVALUATIONS) if train.evaluate_every == AUTO else train.evaluate_every


def with_epochs(config, images: int):
    """Returns the config with the number that `train.epochs=auto` stands for; another config as it is.

    Args:
        config: of a run.
        images: of its training split.
    """
    return _with(config, epochs=epochs_for(config.train.shown, images)) if config.train.auto_epochs else config


def with_kept(config, run: runs.RunDirectory):
    """Returns the config with what a run that has begun keeps: its numbers for auto, and how an older version averaged weights."""
    if not run.is_run():
        return config
    held = run.read_config()
    if config.train.auto_epochs:
        config = _with(config, epochs=held["train"]["epochs"])
    if config.train.evaluate_every == AUTO:  # of an older version each epoch
        config = _with(config, evaluate_every=held["train"]["evaluate_every"])
    if not held["train"]["ema_statistics"]:
        config = _with(config, ema_statistics=False)
    return config


def _with(config, **values):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))
