"""The mutable config: defaults, overrides, unknown keys."""

import copy
import pickle
from pathlib import Path

import pytest

from cnnjax import config as config_lib
from cnnjax.config.settings import unknown_key
from cnnjax.errors import ConfigError

KEYS = list(config_lib.KEYS)


def lines_of(error) -> list[str]:
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    "given, nearest",
    [
        ("data.batchsize", "data.batch_size"),
        ("batch_size", "data.batch_size"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("train.epoch", "train.epochs"),
        ("sed", "seed"),
    ],
)
def test_typo_in_an_override_is_one_line_with_the_nearest(given, nearest):
    with pytest.raises(ConfigError) as error:
        config_lib.override(config_lib.default(), {given: "1"})
    assert len(lines_of(error)) == 1
    assert f"unknown config key {given!r}; did you mean {nearest!r}" in str(error.value)
    assert str(error.value).count(" or ") <= 2
    assert str(error.value).endswith(f"? python launch.py --help lists all {len(KEYS)}")


def test_unknown_key_that_resembles_nothing_says_where_all_are_listed():
    text = str(unknown_key("zzzzqqqq"))
    assert text == f"unknown config key 'zzzzqqqq'; python launch.py --help lists all {len(KEYS)}"


def test_section_is_not_a_key():
    with pytest.raises(ConfigError, match="'mesh' is a section of the config; set one of its keys: mesh.fsdp$"):
        config_lib.override(config_lib.default(), {"mesh": "x"})


def test_text_for_a_tuple_that_a_config_file_has_emptied_is_still_of_the_default_type():
    config = config_lib.override(config_lib.default(), {"model.dense": ()})
    assert config_lib.override(config, {"model.dense": "64,32"}).model.dense == (64, 32)


def test_python_values_are_taken_as_they_are():
    config = config_lib.override(
        config_lib.default(),
        {"data.path": Path("a/b"), "model.channels": [8, 8], "optimizer.learning_rate": 1, "log.tensorboard": True},
    )
    assert (config.data.path, config.model.channels, config.log.tensorboard) == ("a/b", (8, 8), True)
    assert type(config.optimizer.learning_rate) is float


def test_all_unknown_keys_and_types_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        config_lib.override(config_lib.default(), {"tran.epochs": "1", "seed": "x", "log.evry": "3"})
    assert len(lines_of(error)) == 3


def test_default_tree_is_locked():
    config = config_lib.default()
    with pytest.raises(AttributeError):
        config.train.epoch = 3
    with pytest.raises(TypeError):
        config.train.epochs = "3"


def test_every_key_is_explained_for_help():
    notes = config_lib.notes()
    assert notes.keys() == dict(config_lib.flatten(config_lib.default())).keys()
    assert notes["data.path"].startswith("folder, .zip") and "shared between runs" in notes["data.cache_dir"]
    assert notes["split.method"].endswith("official: what the data set brings") and "Pixels, in" not in notes["augment.fill"]


def test_finished_config_is_frozen_typed_hashable_and_can_be_pickled():
    config = config_lib.finish(config_lib.override(config_lib.default(), {"data.path": "x"}))
    assert isinstance(config, config_lib.Config) and isinstance(config.optimizer, config_lib.Optimizer)
    with pytest.raises(AttributeError):
        config.data.batch_size = 3
    assert pickle.loads(pickle.dumps(config)) == config and hash(config) == hash(copy.deepcopy(config))
