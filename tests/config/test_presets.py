"""Presets of the `augment` section."""

import json

import pytest

from cnnjax import config as config_lib
from cnnjax.cli import parse
from cnnjax.errors import ConfigError


def lines_of(error) -> list[str]:
    return str(error.value).splitlines()


def augment_section(**values):
    return {**config_lib.default().augment, **values}


def test_a_preset_is_set_on_the_command_line_as_a_whole_section(configs):
    overrides = parse(["launch.py", "--config.augment=light", f"--config={configs}/digits.py"])
    assert overrides == {"augment": "light"}
    config = config_lib.load_config(configs / "digits.py", overrides)  # which has a fill and a zoom of its own
    assert dict(config.augment) == augment_section(**config_lib.PRESETS["light"])


@pytest.mark.parametrize("name", config_lib.PRESETS)
def test_every_preset_is_valid_and_what_it_does_not_name_is_off(configs, name):
    config = config_lib.load_config(configs / "digits.py", {"augment": name})
    assert dict(config.augment) == augment_section(**config_lib.PRESETS[name])
    tree = json.loads(config_lib.to_json(config))
    assert config_lib.from_dict(tree) == config
    assert dict(config_lib.from_dict(tree, {"augment": "none"}).augment) == augment_section()


def test_single_keys_win_over_the_preset_wherever_they_stand(configs):
    single = {"augment.rotation": "5", "augment.blur": 0.5}
    expected = augment_section(**{**config_lib.PRESETS["cells"], "rotation": 5.0, "blur": 0.5})
    for overrides in ({"augment": "cells", **single}, {**single, "augment": "cells"}):
        given = dict(overrides)
        assert dict(config_lib.load_config(configs / "digits.py", overrides).augment) == expected
        assert overrides == given


def test_an_unknown_preset_is_one_line_with_the_nearest_and_all(configs):
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(configs / "digits.py", {"augment": "lihgt"})
    assert lines_of(error) == ["augment='lihgt': use one of none, tutorial, keras_generator, light, strong, cells; "
                               "did you mean 'light'?"]  # fmt: skip
    with pytest.raises(ConfigError, match="use one of none") as error:
        config_lib.set_preset(config_lib.default(), "zzzz")
    assert "did you mean" not in str(error.value)
