"""Types, bounds and choices of single keys."""

import pytest

from cnnjax import config as config_lib
from cnnjax.config import KEYS
from cnnjax.errors import ConfigError


def lines_of(error) -> list[str]:
    return str(error.value).splitlines()


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
        ("train.epochs", "many", "a whole number, such as 30, or auto"),
        ("train.epochs", "1.5", "a whole number, such as 30, or auto"),
        ("train.epochs", 1.5, "a whole number, such as 30, or auto"),
        ("train.epochs", True, "a whole number, such as 30, or auto"),
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


def test_infinity_is_told_not_to_be_a_finite_number():
    assert KEYS["optimizer.learning_rate"].problem(float("inf")) == "must be a finite number, above 0"
