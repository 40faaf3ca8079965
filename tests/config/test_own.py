"""Code in files of the user's own."""

from pathlib import Path

import pytest

from cnnjax import config as config_lib
from cnnjax.errors import ConfigError


def test_a_file_and_a_name_are_split():
    assert config_lib.split_own("a/my_file.py:MyNet") == (Path("a/my_file.py"), "MyNet")
    for text in ("convnet", "my_file.py", "my_file.py:", "my_file.py:a b", ":x"):
        assert config_lib.split_own(text) is None


def test_what_a_file_defines_is_imported_again_when_the_file_has_changed(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def loss():\n    return 1\n")
    assert config_lib.load_own(f"{file}:loss")() == 1
    assert config_lib.load_own(f"{file}:loss") is config_lib.load_own(f"{file}:loss")
    file.write_text("def loss():\n    return 20\n")
    assert config_lib.load_own(f"{file}:loss")() == 20


@pytest.mark.parametrize(("code", "name", "message"), [
    ("def loss():\n    pass\n", "los", "defines no los; it defines loss$"),
    ("x = 1\ny = 1 / 0\n", "x", r"mine\.py, line 2: ZeroDivisionError"),
    ("def f(:\n", "f", r"mine\.py, line 1: SyntaxError"),
])  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path, code, name, message):
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ConfigError, match=message) as error:
        config_lib.load_own(f"{file}:{name}")
    assert "\n" not in str(error.value)


def test_a_network_of_ones_own_is_a_choice_and_its_file_must_be_there(configs, tmp_path):
    file = tmp_path / "mine.py"
    overrides = {"model.name": f"{file}:MyNet"}
    with pytest.raises(ConfigError, match="no such file"):
        config_lib.load_config("digits", overrides)
    file.write_text("class MyNet: ...\n")
    config = config_lib.load_config("digits", overrides)
    assert config_lib.idle(config) == []
    with pytest.raises(ConfigError, match=r"or FILE\.py:NAME of your own; did you mean 'convnet'"):
        config_lib.load_config("digits", {"model.name": "convnt"})


@pytest.mark.parametrize("key", [name for name, key in config_lib.KEYS.items() if key.own])
def test_a_path_of_ones_own_code_becomes_absolute(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    config = config_lib.load_config("digits", {key: "mine.py:thing"})
    assert dict(config_lib.flatten(config))[key] == f"{tmp_path.resolve()}/mine.py:thing"
    with pytest.raises(ConfigError, match=f"{key}=.*FILE.py:NAME"):
        config_lib.load_config("digits", {key: "thing"})
