"""Recipes: presets of the whole training."""

import pytest
from training_tools import network_of, settings

from cnnjax import config as config_lib
from cnnjax.errors import ConfigError
from cnnjax.training.phases import check_scales

SET = ("model", "augment", "optimizer")


@pytest.mark.parametrize("name", config_lib.RECIPES)
def test_a_recipe_sets_whole_sections_of_any_config_and_leaves_its_images_alone(configs, name):
    recipe = config_lib.RECIPES[name]
    found = [
        config_lib.load_config(configs / file, {"recipe": name, "data.path": "x"})
        for file in ("digits.py", "malaria.py", "folder.py")
    ]
    for config in found:
        values = dict(config_lib.flatten(config))
        assert {key: values[key] for key in recipe} == recipe
        assert [getattr(config, section) for section in SET] == [getattr(found[0], section) for section in SET]
        assert config.train.monitor == recipe.get("train.monitor", "val_loss") and config.image.width == 0
    assert found[1].data.group and found[1].split.method == "grouped"


@pytest.mark.parametrize("name", config_lib.RECIPES)
def test_the_network_of_a_recipe_takes_images_of_all_its_scales(name):
    config = settings(recipe=name)
    check_scales(config, network_of(config, 5))


@pytest.mark.parametrize("variant", ["probe", "pretrained"])
def test_a_recipe_begins_with_drawn_weights_and_trains_all_of_them(configs, variant):
    found = config_lib.load_config(f"{configs / 'folder.py'}:{variant}", {"recipe": "photos_10min", "data.path": "x"})
    plain = config_lib.load_config(configs / "folder.py", {"recipe": "photos_10min", "data.path": "x"})
    assert (found.train, found.model, found.image.size) == (plain.train, plain.model, plain.image.size)
    assert found.model.weights == "" and found.train.freeze == "" and found.train.method == "gradient"


def test_a_probe_has_no_views(configs):
    with pytest.raises(ConfigError, match=r"^image.views='turned': train.method=probe fits .*; use plain$"):
        config_lib.load_config(configs / "digits.py", {"train.method": "probe", "image.views": "turned"})


def test_single_keys_and_an_augmentation_win_over_a_recipe_wherever_they_stand(configs):
    name = next(iter(config_lib.RECIPES))
    found = config_lib.load_config(
        configs / "digits.py", {"optimizer.learning_rate": 0.5, "augment": "cells", "recipe": name}
    )
    assert found.optimizer.learning_rate == 0.5
    assert dict(found.augment) == {**config_lib.default().augment, **config_lib.PRESETS["cells"]}
    assert found.train.ema_decay == config_lib.RECIPES[name]["train.ema_decay"]


def test_an_unknown_recipe_is_one_line_with_the_nearest_and_all(configs):
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(configs / "digits.py", {"recipe": "photos_1min"})
    assert (
        str(error.value) == f"recipe='photos_1min': use one of {', '.join(config_lib.RECIPES)}; did you mean 'photos_10min'?"
    )
    with pytest.raises(ConfigError, match=r"use one of [\w, ]*$"):
        config_lib.set_recipe(config_lib.default(), "zzzz")
