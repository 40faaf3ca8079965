"""Weights of classes: their numbers, what they do to an update, and wrong ones."""

import types

import jax
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from training_tools import network_of, one_line, settings

from cnnjax.errors import ConfigError
from cnnjax.training import optimizers, state, steps
from cnnjax.training.imbalance import class_weights

LABELS = np.repeat(np.int32([0, 1, 2]), (40, 10, 2))
DATA = types.SimpleNamespace(labels=LABELS, splits={"train": np.arange(52)}, classes=("sound", "torn", "lost"))


def weights(*entries):
    return class_weights(settings(train__class_weights=entries), DATA)


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(weights("balanced"), expected, rtol=1e-6)
    assert weights() is None


def test_given_weights_keep_their_ratios_and_a_mean_of_one_over_the_images():
    found = weights("lost=20", "sound=1", "torn=2.5")
    np.testing.assert_allclose(found / found[0], [1, 2.5, 20], rtol=1e-6)
    assert found[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize(("entries", "said"), [
    (("sound=1", "torn=2"), "'lost' has no weight; write balanced, or sound=1,torn=1,lost=1 with other numbers"),
    (("sound=1", "torn=2", "lost=3", "gone=1"), "'gone' is not a class"),
])  # fmt: skip
def test_weights_that_do_not_fit_the_classes_are_one_line(entries, said):
    with pytest.raises(ConfigError) as error:
        weights(*entries)
    assert said in one_line(error)


@pytest.mark.parametrize("entry", ["heavy", "sound=", "sound=0", "sound=-1", "=2", "sound=x"])
def test_what_is_no_weight_is_refused_before_any_data(entry):
    with pytest.raises(ConfigError, match="write balanced, or NAME=WEIGHT"):
        settings(train__class_weights=(entry,))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"augment__mixup": 0.4}, {"train__loss": "focal"}, {"train__accumulate": 2}])
def test_an_image_with_twice_the_weight_has_twice_the_part_in_the_loss(options):
    config = settings(image__size=8, model__channels=(3,), model__dense=(5,), **options)
    network = network_of(config, 3)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 0.01)
    recipe, first = steps.recipe(config), jax.jit(lambda: state.initial(network, tx))()
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), "label": np.int32([0, 1, 2, 0, 1, 2, 0, 1])}
    step = jax.jit(lambda s, b: steps.train_step(s, b, network=network, tx=tx, recipe=recipe))
    after, plain = step(first, batch)
    same, ones = step(first, {**batch, "weight": np.ones(8, np.float32)})
    assert float(plain["loss"]) == pytest.approx(float(ones["loss"]), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, same.params)
    parts = [float(step(first, {**batch, "weight": np.float32(batch["label"] == c)})[1]["loss"]) for c in range(3)]
    weighted = float(step(first, {**batch, "weight": np.float32([1, 2, 5])[batch["label"]]})[1]["loss"])
    assert sum(parts) == pytest.approx(float(plain["loss"]), rel=1e-5)
    assert parts[0] + 2 * parts[1] + 5 * parts[2] == pytest.approx(weighted, rel=1e-5)
