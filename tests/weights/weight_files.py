"""A tiny residual network, and files of weights with the names that torchvision and timm give its arrays."""

import functools

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file
from training_tools import network_of, settings

from cnnjax import models
from cnnjax.models.resnet import ResNet, basic

TINY = functools.partial(ResNet, block=basic, depths=(1, 1), widths=(4, 8))  # `model.name=tiny` of the tests


def tiny_network(classes=3, **overrides):
    """The network, for images of 64 pixels."""
    return network_of(settings(**{"model__name": "tiny", "image__size": 64, **overrides}), classes)


@functools.cache
def shapes_of(classes, size):
    """Path -> shape of every array of the network."""
    trees = tiny_network(classes, image__size=size).shapes
    return {path: leaf.shape for tree in trees for path, leaf in traverse_util.flatten_dict(tree).items()}


def drawn(classes=5, size=64, seed=0, dtype=np.float32):
    """{name of torchvision: array} of a whole network, variances positive."""
    shapes, rng = shapes_of(classes, size), np.random.default_rng(seed)
    found = {}
    for path, name in models.reference_names(shapes, ResNet.references["torchvision"]).items():
        values = rng.uniform(0.5, 1.5, shapes[path]) if path[-1] in ("var", "scale") else rng.normal(0, 0.2, shapes[path])
        found[name] = np.ascontiguousarray(models.to_reference(path, values.astype(dtype)))
    return found


def saved(path, arrays):
    """Writes a file of weights; returns its path."""
    save_file(arrays, path)
    return path
