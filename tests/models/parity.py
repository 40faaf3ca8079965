"""Comparison of a network with the logits that PyTorch computed for the same drawn weights."""

import json
from pathlib import Path

import jax
import numpy as np
import parity_draws
from flax import nnx, traverse_util
from training_tools import network_of, settings

from cnnjax import models
from cnnjax.config import Preprocessing

ROWS = json.loads(Path(__file__).with_name("parity.json").read_text())
CLASSES, COUNT = 5, 4  # of make_parity.py


def drawn(network: models.Network, collection: str) -> tuple[dict, dict]:
    """(params, stats) of a network, drawn under the names of a collection."""
    rules = network.model.references[collection]
    trees = []
    for tree in network.shapes:
        flat = traverse_util.flatten_dict(tree)
        for path, name in models.reference_names(flat, rules).items():
            there = models.to_reference(path, np.broadcast_to(np.float32(0), flat[path].shape)).shape
            flat[path] = models.from_reference(path, parity_draws.array(name, there))
        trees.append(traverse_util.unflatten_dict(flat))
    return tuple(trees)


def difference(side: str, mode: str, **overrides) -> float:
    """The largest difference of a logit to PyTorch's, relative to their largest.

    Args:
        side: "network/collection", a row of parity.json.
        mode: "eval" or "train", where batches give their own statistics.
        overrides: of the config.
    """
    name, collection = side.split("/")
    row = ROWS[side]
    config = settings(model__name=name, image__size=row["size"], **overrides)
    network = network_of(config, CLASSES)
    params, stats = drawn(network, collection)
    definition = network.train_def if mode == "train" else network.eval_def

    @jax.jit
    def logits(params, stats, images):
        return nnx.merge(definition, params, stats)(images, nnx.Rngs(0))

    ours = np.asarray(logits(params, stats, parity_draws.images(COUNT, Preprocessing.of(config.image).size)))
    theirs = np.array(row[mode])
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
