"""Config files: own and bundled ones, and what is said of a wrong one."""

import pytest

from cnnjax import config as config_lib
from cnnjax.config import files
from cnnjax.errors import ConfigError

KEYS = list(config_lib.KEYS)


EVERY_CONFIG = (
    ("malaria.py", {}),
    ("malaria.py:demo", {}),
    ("malaria.py:tutorial", {}),
    ("flowers.py", {}),
    ("flowers.py:demo", {}),
    ("flowers.py:tutorial", {}),
    ("folder.py", {"data.path": "some/folder"}),
    ("folder.py:probe", {"data.path": "some/folder"}),
    ("digits.py", {}),
    ("digits.py:best", {}),
    ("tfds.py:cifar10", {}),
    ("tfds.py:mnist", {}),
    ("tfds.py:cifar10:3.0.2", {}),
)


def lines_of(error) -> list[str]:
    return str(error.value).splitlines()


@pytest.mark.parametrize("name, overrides", EVERY_CONFIG)
def test_config_loads_and_is_named_after_file_and_variant(configs, name, overrides):
    config = config_lib.load_config(configs / name, overrides)
    file, _, variant = name.partition(".py:")
    assert config.name == (f"{file}-{variant}" if variant else file.removesuffix(".py"))
    assert [key for key, _ in config_lib.flatten(config)] == KEYS
    with pytest.raises(AttributeError):
        config.seed = 1


def test_list_above_has_every_config_file(configs):
    assert {path.name for path in configs.glob("*.py")} == {name.partition(":")[0] for name, _ in EVERY_CONFIG}


def test_malaria_keeps_patients_apart_and_names_the_positive_class(configs):
    config = config_lib.load_config(configs / "malaria.py")
    assert (config.split.method, config.data.group, config.data.positive) == (
        "grouped",
        r"(?P<patient>^C\d+)",
        "Parasitized",
    )


def test_config_without_a_variant_after_the_colon_is_the_plain_one(configs):
    assert config_lib.load_config(f"{configs}/malaria.py:") == config_lib.load_config(f"{configs}/malaria.py")


def test_folder_config_asks_for_a_path(configs):
    with pytest.raises(ConfigError, match="data.path") as error:
        config_lib.load_config(configs / "folder.py")
    assert "--config.data.path=DIR" in str(error.value)


def test_tfds_config_asks_for_a_name(configs):
    with pytest.raises(ConfigError, match="tfds.py:cifar10") as error:
        config_lib.load_config(configs / "tfds.py")
    assert len(lines_of(error)) == 1


@pytest.mark.parametrize("name", ["malaria", "flowers", "digits", "folder"])
def test_wrong_variant_lists_the_right_ones(configs, name):
    with pytest.raises(ConfigError, match="unknown variant 'demmo'") as error:
        config_lib.load_config(f"{configs}/{name}.py:demmo")
    assert f"configs/{name}.py" in str(error.value) and len(lines_of(error)) == 1


def test_wrong_file_names_the_nearest(configs):
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(configs / "malria.py")
    assert f"did you mean {configs / 'malaria.py'}?" in str(error.value) and len(lines_of(error)) == 1
    with pytest.raises(ConfigError, match="no config file") as error:
        config_lib.load_config(configs / "nowhere" / "x.py")
    assert len(lines_of(error)) == 1


@pytest.mark.parametrize(
    "line, nearest",
    [("config.data.batchsize = 4", "data.batch_size"), ("config.tran = 3", ""), ("config.train.lr = 0.1", "learning_rate")],
)
def test_typo_in_a_file_is_one_line_with_the_nearest(tmp_path, line, nearest):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from cnnjax.config import default\ndef get_config(arg=''):\n    config = default()\n    {line}\n    return config\n"
    )
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(file)
    assert len(lines_of(error)) == 1 and str(file) in str(error.value)
    assert nearest in str(error.value) and "--help lists all" in str(error.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ("c.train.epochs = 'many'", "train.epochs='many': must be a whole number, such as 30"),
        ("c.train.epochs = 1.5", "train.epochs=1.5: must be a whole number, such as 30"),
        ("c.train.epochs = None", "train.epochs=None: must be a whole number, such as 30"),
        ("c.augment.flip_horizontal = 1", "augment.flip_horizontal=1: must be true or false"),
        ("c.model.channels = 3", "model.channels=3: must be whole numbers with commas between them, such as 16,32,64"),
        ("c.seed = 'x'", "seed or split.seed='x': must be a whole number, such as 0"),
        ("c.mesh = 2", "'mesh' is a section of the config; set one of its keys: mesh.fsdp"),
        ("c.seed = 1 + 'x'", "TypeError: unsupported operand.*; fix it, or start from configs/folder.py"),
    ],
)
def test_wrong_type_in_a_file_is_one_line_as_on_the_command_line(tmp_path, line, message):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from cnnjax.config import default\ndef get_config(arg=''):\n    c = default()\n    {line}\n    return c\n"
    )
    with pytest.raises(ConfigError, match=f"mine.py(, line [0-9]+)?: {message}") as error:
        config_lib.load_config(file)
    assert len(lines_of(error)) == 1 and str(file) in str(error.value)


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("notes.md", "# Notes", "is not a config file, which is Python, NAME.py"),
        ("empty.py", "", "has no function get_config"),
        ("cut.py", "def get_config(", r"cut\.py, line 1: SyntaxError"),
        ("missing.py", "import no_such_module", r"missing\.py, line 1: ModuleNotFoundError.*fix it"),
        ("own.py", "def get_config(arg):\n    return {}['x']", r"own\.py, line 2: KeyError"),
        ("short.py", "def get_config():\n    pass", r"TypeError: get_config\(\) takes 0 positional arguments.*; fix it"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, name, text, wanted):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=wanted) as error:
        config_lib.load_config(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["malaria", "malaria:demo", "tfds:cifar10:3.0.2"])
def test_a_bundled_config_is_found_by_its_name_from_any_folder(configs, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file, _, variant = name.partition(":")
    assert config_lib.load_config(name) == config_lib.load_config(f"{configs}/{file}.py:{variant}")


def test_an_installed_package_has_its_configs_inside(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.py").write_text(
        "from cnnjax.config import default\n\n\ndef get_config(arg=''):\n    return 1 / 0\n"
    )
    monkeypatch.setattr(files, "FOLDERS", (tmp_path / "configs", *files.FOLDERS))
    assert list(config_lib.bundled()) == ["own"]
    with pytest.raises(ConfigError, match=r"own\.py, line 5: ZeroDivisionError"):
        config_lib.load_config("own")


def test_a_wrong_name_lists_the_bundled_ones():
    with pytest.raises(ConfigError) as error:
        config_lib.load_config("malria:demo")
    assert str(error.value) == ("no config 'malria'; did you mean malaria? bundled are digits, flowers, folder, malaria, tfds; or name a "
                                "file, NAME.py")  # fmt: skip
