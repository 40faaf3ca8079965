"""The sections: complete declarations, and access as a mapping."""

import dataclasses
import json

import pytest

from cnnjax import config as config_lib
from cnnjax.config.sections import SECTIONS

KEYS = config_lib.KEYS


@pytest.mark.parametrize("name", KEYS)
def test_a_key_has_a_note_a_default_that_is_allowed_and_a_type(name):
    key = KEYS[name]
    assert key.note and key.problem(key.default) == ""
    section, _, leaf = name.rpartition(".")
    fields = {field.name: field for field in dataclasses.fields(SECTIONS[section] if section else config_lib.Config)}
    assert isinstance(key.default, getattr(fields[leaf].type, "__origin__", fields[leaf].type))


@pytest.mark.parametrize("name", [name for name in KEYS if KEYS[name].choices])
def test_a_default_is_among_the_choices_of_the_registry(name):
    default, allowed = KEYS[name].default, config_lib.keys.names(KEYS[name].choices)
    assert set(default if isinstance(default, tuple) else [default]) <= set(allowed)


def test_a_section_reads_as_a_mapping_with_sorted_keys():
    config = config_lib.Config()
    assert list(config) == sorted(config) and config["model"]["name"] == config.model.name == "convnet"
    assert dict(config.mesh) == {"fsdp": 1} and {**config.log} == {"every": 20, "tensorboard": False}
    with pytest.raises(KeyError):
        config["modle"]


def test_sections_are_equal_by_value_and_by_kind():
    assert config_lib.Mesh() == config_lib.Mesh(fsdp=1) != config_lib.Mesh(fsdp=2)
    assert config_lib.Mesh() != config_lib.Log()


def test_the_default_config_is_the_default_of_its_sections():
    assert config_lib.Config().to_dict() == config_lib.default().to_dict()
    assert json.loads(config_lib.to_json(config_lib.Config()))["model"]["channels"] == [16, 32, 64]
