"""Comparison of a network with the logits that PyTorch computed for the same drawn weights."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import parity_draws
import pytest
from flax import nnx, traverse_util
from training_tools import network_of, settings

from cnnjax import models
from cnnjax.config import Preprocessing

ROWS = json.loads(Path(__file__).with_name("parity.json").read_text())
CLASSES, COUNT = 5, 4  # of make_parity.py


def shape_there(side: str, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array in PyTorch: ConvNeXt and timm's MobileNetV3 have axes of length 1 there."""
    longer = (
        name.endswith("layer_scale")
        or (side, name) == ("mobilenetv3_large_100/timm", "conv_head.weight")
        or (side == "convnext_nano/timm" and ".mlp." in name and len(shape) == 2)
    )
    return (*shape, 1, 1) if longer else shape


def drawn(network: models.Network, side: str) -> tuple[dict, dict]:
    """(params, stats) of a network, drawn under the names of a row of parity.json."""
    rules = network.model.references[side.split("/")[1]]
    trees = []
    for tree in network.shapes:
        flat = traverse_util.flatten_dict(tree)
        for path, name in models.reference_names(flat, rules).items():
            shape = flat[path].shape
            there = models.to_reference(path, np.broadcast_to(np.float32(0), shape)).shape
            flat[path] = models.from_reference(
                path, parity_draws.array(name, shape_there(side, name, there), ROWS[side]["gain"]), shape
            )
        trees.append(traverse_util.unflatten_dict(flat))
    return tuple(trees)


def difference(side: str, mode: str, **overrides) -> float:
    """The largest difference of a logit to PyTorch's, relative to their largest.

    Args:
        side: "network/collection", a row of parity.json.
        mode: "eval" or "train", where batches give their own statistics.
        overrides: of the config.
    """
    name, row = side.split("/")[0], ROWS[side]
    config = settings(model__name=name, image__size=row["size"], **overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, functools.partial(models.MODELS[name], **row.get("options", {})))
        network = network_of(config, CLASSES)
    params, stats = drawn(network, side)
    definition = network.train_def if mode == "train" else network.eval_def

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half of the time
    def logits(params, stats, images):
        return nnx.merge(definition, params, stats)(images, nnx.Rngs(0))

    ours = np.asarray(logits(params, stats, parity_draws.images(COUNT, Preprocessing.of(config.image).size)))
    theirs = np.array(row[mode])
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
