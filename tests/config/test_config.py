"""The config tree: what loads, what is refused, and that every refusal says how to go on."""

import ast
import io
import json
import tokenize
from pathlib import Path

import pytest

from cnnjax.cli import parse
from cnnjax.config import tree as config_lib
from cnnjax.config import validation
from cnnjax.errors import ConfigError

KEYS = [key for key, _ in config_lib.flatten(config_lib.default())]
EVERY_CONFIG = (
    ("malaria.py", {}),
    ("malaria.py:demo", {}),
    ("malaria.py:tutorial", {}),
    ("flowers.py", {}),
    ("flowers.py:demo", {}),
    ("flowers.py:tutorial", {}),
    ("folder.py", {"data.path": "some/folder"}),
    ("digits.py", {}),
    ("tfds.py:cifar10", {}),
    ("tfds.py:cifar10:3.0.2", {}),
)


@pytest.fixture
def configs(repository) -> Path:
    return repository / "configs"


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
    assert (config.split.method, config.data.group, config.data.positive) == ("grouped", r"^C\d+", "Parasitized")


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
    text = str(config_lib.unknown_key("zzzzqqqq"))
    assert text == f"unknown config key 'zzzzqqqq'; python launch.py --help lists all {len(KEYS)}"


def test_section_is_not_a_key():
    with pytest.raises(ConfigError, match="'mesh' is a section of the config; set one of its keys: mesh.fsdp$"):
        config_lib.override(config_lib.default(), {"mesh": "x"})


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
        ("c.seed = 1 + 'x'", "TypeError: unsupported operand.*; mend it, or start from configs/folder.py"),
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
    "key, text, value",
    [
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.learning_rate", ".5", 0.5),
        ("augment.rotation", "15", 15.0),
        ("train.epochs", "7", 7),
        ("data.demo_cells", "10_000", 10000),
        ("log.tensorboard", "true", True),
        ("log.tensorboard", "False", False),
        ("log.tensorboard", "1", True),
        ("log.tensorboard", "no", False),
        ("model.channels", "16,32", (16, 32)),
        ("model.channels", "(16, 32)", (16, 32)),
        ("model.channels", "[16, 32]", (16, 32)),
        ("model.channels", "16", (16,)),
        ("model.dense", "", ()),
        ("model.dense", "()", ()),
        ("model.padding", "valid,same", ("valid", "same")),
        ("data.classes", "a,b", ("a", "b")),
        ("data.classes", "('a', 'b')", ("a", "b")),
        ("data.classes", "7,4,1", ("7", "4", "1")),
        ("data.path", "3", "3"),
        ("data.group", r"^C\d+", r"^C\d+"),
    ],
)
def test_text_becomes_the_type_of_the_key(key, text, value):
    config = config_lib.override(config_lib.default(), {key: text})
    got = dict(config_lib.flatten(config))[key]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("train.epochs", "many", "a whole number, such as 30"),
        ("train.epochs", "1.5", "a whole number, such as 30"),
        ("train.epochs", 1.5, "a whole number, such as 30"),
        ("train.epochs", True, "a whole number, such as 30"),
        ("optimizer.learning_rate", "fast", "a number, such as 0.001"),
        ("log.tensorboard", "maybe", "true or false"),
        ("log.tensorboard", 1, "true or false"),
        ("model.channels", "x", "whole numbers with commas between them, such as 16,32,64"),
        ("model.channels", "(16, 32", "whole numbers with commas between them, such as 16,32,64"),
        ("model.channels", 16, "whole numbers with commas between them, such as 16,32,64"),
        ("data.classes", 16, "names with commas between them, such as cat,dog"),
        ("data.source", 3, "text, such as 'files'"),
    ],
)
def test_wrong_type_is_one_line_with_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigError) as error:
        config_lib.override(config_lib.default(), {key: value})
    assert len(lines_of(error)) == 1
    assert str(error.value) == f"{key}={value!r}: must be {allowed}"


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


def test_what_a_network_has_no_use_for_is_what_was_set_for_it_alone():
    assert config_lib.idle(config_lib.override(config_lib.default(), {"model.name": "resnet18", "data.path": "x"})) == []
    config = config_lib.override(config_lib.default(), {"model.dense": (16,), "model.channels": (16, 32, 64)})
    assert config_lib.idle(config) == []
    assert config_lib.idle(config_lib.override(config, {"model.name": "resnet50"})) == ["model.dense"]


def test_all_unknown_keys_and_types_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        config_lib.override(config_lib.default(), {"tran.epochs": "1", "seed": "x", "log.evry": "3"})
    assert len(lines_of(error)) == 3


WRONG = {
    "data.source": "disk",
    "image.resize": "bilinaer",
    "model.norm": "layer",
    "optimizer.schedule": "linear",
    "data.batch_size": 0,
    "image.size": 5000,
    "train.epochs": 0,
    "train.patience": -1,
    "seed": -1,
    "data.max_bad_fraction": 1.5,
    "split.train": 0.9,
    "model.dropout_dense": 1.0,
    "augment.rotation": -1.0,
    "augment.zoom": 1.0,
    "augment.shear": 61.0,
    "augment.crop_area": 0.0,
    "augment.crop_ratio": 0.9,
    "augment.pad_crop": -1,
    "augment.fill": "reflct",
    "augment.hue": 0.6,
    "augment.grey": 1.5,
    "augment.stain": -0.1,
    "augment.blur": -1.0,
    "augment.cutout": 1.1,
    "augment.mixup": -0.1,
    "augment.rand_augment": -1,
    "augment.rand_augment_magnitude": 1.1,
    "train.label_smoothing": 1.0,
    "image.zca_epsilon": 0.0,
    "optimizer.learning_rate": 0.0,
    "optimizer.epsilon": float("nan"),
    "optimizer.clip_norm": float("inf"),
    "model.pool_stride": 3,
    "model.channels": (16, 0),
    "model.convs": (1, 2, 3),
    "model.padding": ("same", "full"),
    "data.classes": ("a", "a"),
    "data.sha256": "abc",
    "data.group": "(",
}


def test_all_problems_are_reported_at_once_a_line_each():
    with pytest.raises(ConfigError) as error:
        config_lib.validate(config_lib.override(config_lib.default(), WRONG))
    text = lines_of(error)
    assert len(text) >= len(WRONG)
    for key in WRONG.keys() - {"split.train"}:
        assert sum(line.startswith(f"{key}=") for line in text) == 1, key
    assert any(line.startswith("split.train + split.val + split.test is 1.2") for line in text)
    assert any("did you mean 'bilinear'?" in line for line in text)
    assert any("did you mean 'reflect'?" in line for line in text)


@pytest.mark.parametrize("key", WRONG)
def test_each_problem_alone_is_found(key, repository):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as error:
        config_lib.load_config(repository / "configs" / "digits.py", {key: WRONG[key]})
    assert all(line.startswith(("model.", key)) for line in lines_of(error))  # channels, convs and padding belong together


@pytest.mark.parametrize(
    "overrides, key",
    [
        ({"split.method": "grouped", "data.group": ""}, "data.group"),
        ({"split.method": "tutorial"}, "split.test"),
        ({"split.train": 0.0, "split.val": 0.85}, "split.train"),
        ({"split.val": 0.0, "split.train": 0.85}, "split.val"),
        ({"data.positive": "Parasitised"}, "data.positive"),
        ({"data.source": "tfds"}, "data.tfds"),
        ({"data.classes": [0, 1], "data.positive": ""}, "data.classes"),
        ({"image.size": 32, "augment.pad_crop": 32}, "augment.pad_crop"),
        ({"image.size": 32, "augment.blur": 4.1}, "augment.blur"),
        ({"augment.rand_augment": 1, "augment.trivial_augment": True}, "augment.rand_augment"),
        ({"image.size": 49, "image.zca": True}, "image.size"),
    ],
)
def test_values_that_do_not_fit_together(repository, overrides, key):
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(repository / "configs" / "malaria.py", overrides)
    assert [line for line in lines_of(error) if line.startswith(key + "=")]


# Presets of the `augment` section


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


@pytest.mark.parametrize("name, overrides", EVERY_CONFIG)
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
    assert set(config_lib.FREE_TO_CHANGE) <= set(KEYS) and set(validation.CHOICES) <= set(KEYS)


def test_default_tree_is_locked():
    config = config_lib.default()
    with pytest.raises(AttributeError):
        config.train.epoch = 3
    with pytest.raises(TypeError):
        config.train.epochs = "3"


def test_every_key_of_the_default_tree_has_a_comment():
    source = Path(config_lib.__file__).read_text()
    comments = {token.start[0] for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}  # fmt: skip
    tree = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "default")
    keys = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and not isinstance(node.value, ast.Call)
        ):
            keys[ast.unparse(node.targets[0]).removeprefix("c.")] = node.end_lineno
    assert sorted(keys) == sorted(KEYS)
    assert [key for key, line in keys.items() if line not in comments] == []


def test_every_key_is_explained_for_help():
    notes = config_lib.notes()
    assert notes.keys() == dict(config_lib.flatten(config_lib.default())).keys()
    assert notes["data.path"].startswith("folder, .zip") and "shared between runs" in notes["data.cache_dir"]
    assert notes["split.method"].endswith("official: what the data set brings") and "Pixels, in" not in notes["augment.fill"]


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("notes.md", "# Notes", "is no config file: that is Python, NAME.py"),
        ("empty.py", "", "has no function get_config"),
        ("cut.py", "def get_config(", r"cut\.py, line 1: SyntaxError"),
        ("missing.py", "import no_such_module", r"missing\.py, line 1: ModuleNotFoundError.*mend it"),
        ("own.py", "def get_config(arg):\n    return {}['x']", r"own\.py, line 2: KeyError"),
        ("short.py", "def get_config():\n    pass", r"TypeError: get_config\(\) takes 0 positional arguments.*; mend it"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, name, text, wanted):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=wanted) as error:
        config_lib.load_config(tmp_path / name)
    assert "\n" not in str(error.value)
