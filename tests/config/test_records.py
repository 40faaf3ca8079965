"""Configs in a run's directory: stored, read back, compared."""

import json

import pytest

from cnnjax import config as config_lib
from cnnjax.errors import ConfigError

KEYS = list(config_lib.KEYS)


@pytest.mark.parametrize(("name", "overrides"), [("malaria.py:tutorial", {}), ("folder.py", {"data.path": "some/folder"})])
def test_json_round_trip_gives_an_equal_config(configs, name, overrides):
    config = config_lib.load_config(configs / name, overrides)
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert again == config
    assert config_lib.differences(config, again) == []


def test_from_dict_takes_overrides_and_refuses_unknown_keys(configs):
    tree = json.loads(config_lib.to_json(config_lib.load_config(configs / "digits.py")))
    assert config_lib.from_dict(tree, {"train.epochs": "3"}).train.epochs == 3
    with pytest.raises(ConfigError, match="unknown config key 'train.nonsense'"):
        config_lib.from_dict({**tree, "train": {**tree["train"], "nonsense": 1}})


def test_differences_name_what_matters_and_nothing_else(configs):
    old = config_lib.load_config(configs / "digits.py")
    free = {"data.path": "x", "data.cache_dir": "y", "log.every": 5, "runtime.workers": 3, "runtime.devices": 1}
    assert config_lib.differences(old, config_lib.load_config(configs / "digits.py", free)) == []
    new = config_lib.load_config(configs / "digits.py", {"seed": 4, "model.dense": (9,)})
    assert config_lib.differences(old, new) == ["model.dense: (128,) -> (9,)", "seed: 0 -> 4"]


def test_keys_that_may_change_exist():
    assert set(config_lib.FREE_TO_CHANGE) <= set(KEYS)


@pytest.mark.parametrize("tree", [None, 0, "x", ["data"]])
def test_a_file_that_holds_no_sections_is_refused(tree):
    with pytest.raises(ConfigError, match="sections by name"):
        config_lib.from_dict(tree)


def test_a_name_that_is_too_long_for_a_file_is_refused():
    for name in ("9" * 400, "9" * 400 + ".py", "9" * 400 + " min"):
        with pytest.raises(ConfigError):
            config_lib.load_config(name)
