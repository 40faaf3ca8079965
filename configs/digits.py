"""Handwritten digits, 0 to 9: real data that comes with scikit-learn, nothing to download.

1,797 digits of 8x8 pixels (UCI ML hand-written digits), shown to the network at 16x16.

    python launch.py --config=configs/digits.py
    python launch.py --config=configs/digits.py:best        a residual network at 32x32

Measured on two cores of an AMD EPYC (Zen 4), float32, 2,200 images/s:
    0:24, 32 epochs; test accuracy 0.985
    best, 7:42 on one core with AVX2; test accuracy 0.996
"""

from cnnjax.config import default, set_recipe, unknown_variant


def get_config(arg=""):
    """`arg`: "" or best."""
    config = default()
    config.data.source = "digits"
    config.augment.rotation = 10.0
    config.augment.zoom = 0.1
    config.augment.shift = 0.06
    config.augment.fill = "constant"
    if arg == "best":
        return _best(config)
    if arg:
        raise unknown_variant("digits", arg, ("best",))
    config.data.batch_size = 64
    config.image.size = 16
    config.model.channels = (32, 64)
    config.model.convs = (2,)
    config.model.norm = "batch"
    config.model.dense = (128,)
    config.model.dropout_features = 0.3
    config.train.epochs = 40
    config.train.patience = 12
    config.optimizer.schedule = "cosine"
    return config


def _best(config):
    """The recipe of the cells for pictures that are not turned."""
    augment = {**config.augment, "shear": 5.0}
    set_recipe(config, "cells_3min")
    config.augment.update({**default().augment, **augment})
    config.image.size = 32
    config.image.views = "plain"
    config.train.shown = 60_000
    return config
