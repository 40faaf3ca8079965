"""Weights as safetensors: the names and shapes of the collections, and the same numbers when they begin another run."""

import numpy as np
import pytest
from flax import traverse_util
from network_files import drawn_arrays, structure

from cnnjax import models
from cnnjax.config import Preprocessing
from cnnjax.export import FORMATS, Portable, make_card, published
from cnnjax.metrics import Readout
from cnnjax.weights import files, matching

TIMM = ("resnet18", "convnext_nano", "mobilenetv3_large_100", "vit_tiny")


def made_of(name, **overrides):
    config, network = structure(name, **overrides)
    card = make_card(
        classes=["a", "b", "c", "d", "e"],
        preprocessing=Preprocessing.of(config.image),
        readout=Readout(),
        arrays={},
        network=name,
    )
    return Portable.of(network, drawn_arrays(network), card)


@pytest.mark.parametrize(("name", "overrides", "collection"), [
    *((name, {}, "timm") for name in TIMM), ("mobilenetv3_large", {}, "torchvision"), ("convnet", {"image__zca": True, "shape": (8, 8), "model__channels": (4,)}, "cnnjax"),
])  # fmt: skip
def test_a_file_begins_another_run_with_the_same_numbers(name, overrides, collection, tmp_path):
    made = made_of(name, **overrides)
    assert published.collection_of(made)[0] == collection
    FORMATS["safetensors"].write(made, tmp_path / "a.safetensors")
    with files.opened(tmp_path / "a.safetensors") as tensors:
        found = matching.match(tensors, made.network, "a", name)
    flat = {path: array for tree in made.arrays.values() for path, array in traverse_util.flatten_dict(tree).items()}
    assert found.collection == collection and found.new == ()
    assert {path for path in flat if path[0] != "whiten"} == found.arrays.keys()
    for path, array in found.arrays.items():
        np.testing.assert_array_equal(array, flat[path])


@pytest.mark.parametrize("name", TIMM)
def test_dense_layers_that_are_convolutions_in_timm_have_four_axes(name):
    made = made_of(name)
    flat = {path: array for tree in made.arrays.values() for path, array in traverse_util.flatten_dict(tree).items()}
    names, found = models.reference_names(flat, published.collection_of(made)[1]), published.tensors(made)
    longer = {there for path, there in names.items() if found[there].ndim != flat[path].ndim}
    wanted = {
        "convnext_nano": {there for there in names.values() if ".mlp." in there and there.endswith("weight")},
        "mobilenetv3_large_100": {"conv_head.weight"},
    }
    assert longer == wanted.get(name, set())
