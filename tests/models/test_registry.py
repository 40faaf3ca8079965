"""The networks that a config can name, and what it may say of each."""

import importlib
import json

import pytest
from training_tools import CONFIGS, settings

from cnnjax import config as config_lib
from cnnjax import models
from cnnjax.errors import ConfigError

describe = importlib.import_module("cnnjax.commands.describe").describe


def test_every_network_can_be_chosen():
    assert set(config_lib.keys.names(config_lib.KEYS["model.name"].choices)) == set(models.MODELS)


@pytest.mark.parametrize("name", ["flowers.py", "malaria.py:demo", "folder.py", "digits.py", "tfds.py:cifar10"])
def test_every_config_file_can_be_had_with_a_residual_network(name):
    config = config_lib.load_config(CONFIGS / name, {"model.name": "resnet18", "data.path": "x"})
    assert config_lib.from_dict(json.loads(config_lib.to_json(config))) == config


def test_a_setting_without_effect_is_refused_where_it_was_typed():
    given = {"model.name": "resnet50", "model.channels": "16,32", "model.norm": "batch", "model.dropout_dense": "0.2"}
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(CONFIGS / "malaria.py", given)
    assert str(error.value).splitlines() == [
        "model.channels=(16, 32): has no effect with model.name=resnet50; leave it out, or use convnet",
        "model.norm='batch': has no effect with model.name=resnet50; leave it out, or use convnet",
    ]


def test_a_name_that_is_not_a_network_is_refused_with_the_nearest():
    allowed = ", ".join(models.MODELS)
    with pytest.raises(ConfigError, match=f"use one of {allowed}, or FILE.py:NAME of your own; did you mean 'resnet50'"):
        settings(model__name="resnet5")


@pytest.mark.parametrize(("name", "weights"), [
    ("timm:resnet18.a1_in1k", "timm come by --config.model.weights=hf:timm/resnet18.a1_in1k"),
    ("hf:timm/vit_small", "hf come by --config.model.weights=hf:timm/vit_small.TAG"),
    ("torchvision:resnet50", "torchvision come by --config.model.weights=FILE.safetensors"),
])  # fmt: skip
def test_a_network_of_a_collection_is_refused_with_the_place_of_weights(name, weights):
    with pytest.raises(ConfigError) as error:
        settings(model__name=name)
    assert str(error.value) == (f"model.name={name!r}: not a network here; use one of "
                                f"{', '.join(models.MODELS)}; weights of {weights}")  # fmt: skip


def test_describe_marks_what_has_no_effect(cell_folder, tmp_path):
    config = config_lib.load_config(
        CONFIGS / "digits.py", {"model.name": "resnet18", "image.size": 96, "data.path": str(cell_folder)}
    )
    lines = describe(config, tmp_path).splitlines()
    assert lines[0] == "config (* differs from the default, - has no effect with resnet18 and train.method=gradient)"
    assert "  - model.channels = (32, 64)" in lines and "  * model.name = 'resnet18'" in lines
    assert any(line.split()[:6] == ["block4_2", "3", "x", "3", "x", "512"] for line in lines)
    assert (tmp_path / "network.png").exists()
