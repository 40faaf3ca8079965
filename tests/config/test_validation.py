"""Refused values: every problem at once, a line each."""

import pytest

from cnnjax import config as config_lib
from cnnjax.errors import ConfigError


def lines_of(error) -> list[str]:
    return str(error.value).splitlines()


def test_what_a_network_has_no_use_for_is_what_was_set_for_it_alone():
    assert config_lib.idle(config_lib.override(config_lib.default(), {"model.name": "resnet18", "data.path": "x"})) == []
    config = config_lib.override(config_lib.default(), {"model.dense": (16,), "model.channels": (16, 32, 64)})
    assert config_lib.idle(config) == []
    assert config_lib.idle(config_lib.override(config, {"model.name": "resnet50"})) == ["model.dense"]


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
    "data.label": "[",
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
        ({"evidence.threshold": "sensitivity:1.5"}, "evidence.threshold"),
        ({"evidence.threshold": "cost:10,1"}, "evidence.threshold"),
    ],
)
def test_values_that_do_not_fit_together(repository, overrides, key):
    with pytest.raises(ConfigError) as error:
        config_lib.load_config(repository / "configs" / "malaria.py", overrides)
    assert [line for line in lines_of(error) if line.startswith(key + "=")]


def test_a_probe_has_no_use_for_keys_of_steps_and_steps_none_for_those_of_a_probe():
    def problems(given):
        with pytest.raises(ConfigError) as error:
            config_lib.finish(config_lib.override(config_lib.default(), {"data.path": "x", **given}), given)
        return str(error.value)

    probe = {"train.method": "probe"}
    assert "train.epochs=3: has no effect with train.method=probe; leave it out" in problems({**probe, "train.epochs": 3})
    assert "has no effect with train.method=probe and probe.views=1" in problems({**probe, "augment.rotation": 9.0})
    assert "probe.views=2: has no effect with train.method=gradient" in problems({"probe.views": 2})
    assert "there is no augmentation to make views by" in problems({**probe, "probe.views": 2})
    assert "--config.train.class_weights=balanced" in problems({**probe, "data.sampling": "balanced"})
    assert "needs at least one, such as 1000" in problems({**probe, "probe.penalties": ()})
    last = {"train.monitor": "last"}
    assert "train.monitor='last': chooses the penalty of train.method=probe" in problems({**probe, **last})
    assert "there is no plateau of it" in problems({**last, "optimizer.schedule": "plateau"})
    assert "train.patience=4: has no effect with train.monitor=last" in problems({**last, "train.patience": 4})
    config = config_lib.override(
        config_lib.default(), {**probe, "data.path": "x", "optimizer.name": "sgd", "train.monitor": "val_accuracy"}
    )
    assert config_lib.idle(config_lib.finish(config), config_lib.unread(config_lib.finish(config))) == ["optimizer.name"]
