"""Behaviour of the networks: initial weights, dropout, batch statistics, and their work."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from training_tools import CONFIGS, settings

from cnnjax import config as config_lib
from cnnjax import inference, models
from cnnjax.errors import DataError, UserError
from cnnjax.kernels import PLAIN
from cnnjax.models import layers
from cnnjax.training import optimizers, state, steps


def random_images(count, size):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_relu_follows_every_layer_with_weights_but_the_last():
    network = state.network(config_lib.load_config(CONFIGS / "malaria.py"), 2)
    weighted = [layer for layer in network.model.layers if layer.kind in ("conv", "dense")]
    assert [layer.relu for layer in weighted] == [True] * 7 + [False]


@pytest.mark.parametrize("file, rates", [("flowers.py", (0.2, 0.0)), ("malaria.py", (0.0, 0.2))])
def test_dropout_rates_of_the_exercises(file, rates):
    model = state.network(config_lib.load_config(CONFIGS / file), 5).model
    assert (model.drop_features.rate, model.drop_dense.rate) == rates


def test_mflops_count_multiplications_and_additions():
    rows = {
        row.name: row for row in models.table(state.network(config_lib.load_config(CONFIGS / "malaria.py"), 2).model, 32)
    }
    assert rows["conv1"].mflops == pytest.approx(2 * 30 * 30 * 9 * 3 * 16 / 1e6)
    assert rows["dense1"].mflops == pytest.approx(2 * 11_664 * 64 / 1e6)
    assert rows["pool1"].mflops == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_at_ties_chooses_the_first_as_reduce_window_does(stride):
    x = jnp.zeros((1, 7, 6, 2))

    def reference(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, stride, stride, 1), "VALID").sum()

    np.testing.assert_array_equal(jax.grad(lambda x: PLAIN.max_pool(x, 2, stride).sum())(x), jax.grad(reference)(x))


def test_images_are_scaled_to_one():
    # Without biases the network is positively homogeneous: its logits show the scale of its input.
    network = state.network(settings(image__size=8, model__channels=(4,), model__dense=(8,)), 3)
    params, stats = jax.jit(network.make)()
    images = random_images(4, 8)
    got = inference.logits_step({"params": params, "stats": stats}, images, network=network)
    model = nnx.merge(network.eval_def, params, stats)
    x = images.astype(jnp.float32) / 255
    for layer in model.layers:
        x = model.apply(layer, x)
    np.testing.assert_allclose(got, x, rtol=1e-5)
    assert 0.01 < np.abs(got).max() < 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_float32(precision):
    network = state.network(settings(image__size=8, model__channels=(4,), train__precision=precision), 2)
    params, stats = jax.jit(network.make)()
    out = inference.logits_step({"params": params, "stats": stats}, random_images(3, 8), network=network)
    assert out.shape == (3, 1) and out.dtype == jnp.float32


def test_same_seed_same_weights_and_other_seed_other_weights():
    def weights(seed):
        return jax.tree.leaves(jax.jit(state.network(settings(seed=seed, image__size=8, model__channels=(2,)), 2).make)()[0])

    assert all(np.array_equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


def test_initial_weights_are_those_of_keras():
    params = jax.jit(state.network(config_lib.load_config(CONFIGS / "malaria.py"), 2).make)()[0]
    kernel = np.asarray(params["conv1"]["kernel"])
    limit = np.sqrt(6 / (9 * 3 + 9 * 16))  # Glorot uniform
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    assert not np.asarray(params["conv1"]["bias"]).any()


def test_batch_normalisation_keeps_statistics_and_evaluation_uses_them():
    config = settings(image__size=8, model__channels=(4,), model__dense=(8,), model__norm="batch")
    network = state.network(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 0.0)
    before = jax.jit(lambda: state.initial(network, tx))()
    batch = {"image": random_images(16, 8), "label": jnp.arange(16, dtype=jnp.int32) % 2}
    step = functools.partial(steps.train_step, network=network, tx=tx, recipe=steps.recipe(config))
    after, _ = jax.jit(step)(before, batch)
    x = batch["image"].astype(jnp.float32) / 255
    kernel = before.params["conv1"]["kernel"]
    features = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(after.stats["norm_conv1"]["mean"], 0.1 * features.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.stats["norm_conv1"]["var"], 0.9 + 0.1 * features.var((0, 1, 2)), rtol=1e-4)

    @jax.jit
    def evaluated(stats, images):
        return inference.logits_step({"params": after.params, "stats": stats}, images, network=network)

    whole = evaluated(after.stats, batch["image"])
    assert not np.allclose(evaluated(before.stats, batch["image"]), whole)
    # One image alone gives what it gives among others: no statistics of the batch in evaluation.
    np.testing.assert_allclose(evaluated(after.stats, batch["image"][:1]), whole[:1], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only_and_keeps_the_expectation():
    network = state.network(settings(image__size=8, model__channels=(4,), model__dense=(), model__dropout_features=0.5), 2)
    params, stats = jax.jit(network.make)()
    image = random_images(1, 8)
    plain = inference.logits_step({"params": params, "stats": stats}, image, network=network)
    many = jnp.repeat(image, 4000, axis=0)
    dropped = nnx.merge(network.train_def, params, stats)(many, nnx.Rngs(dropout=jax.random.key(0)))
    assert dropped.std() > 0.01
    assert abs(float(dropped.mean() - plain[0, 0])) < 5 * float(dropped.std()) / 4000**0.5


@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.9])
def test_dropout_drops_independently_with_its_rate(rate):
    dropout = layers.Dropout(rate, deterministic=False)
    ones = jnp.ones((64, 8, 8, 256))

    def dropped(seed):
        y = np.asarray(dropout(ones, rngs=nnx.Rngs(dropout=jax.random.key(seed))))
        np.testing.assert_array_equal(y[y != 0], np.float32(1 / (1 - rate)))
        return y == 0

    def near(found, expected, count):
        assert abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count)

    some, other = dropped(0), dropped(1)
    near(some.mean(), rate, some.size)
    near((some & other).mean(), rate**2, some.size)
    for axis in range(4):  # neighbours, and the same place in all others
        near((some & np.roll(some, 1, axis)).mean(), rate**2, some.size)
        fractions = some.mean(tuple(set(range(4)) - {axis}))
        assert np.abs(fractions - rate).max() < 5 * np.sqrt(rate * (1 - rate) * some.shape[axis] / some.size)
    np.testing.assert_array_equal(some, dropped(0))


def test_dropout_is_the_same_in_any_precision_and_in_the_gradient():
    x = jax.random.normal(jax.random.key(1), (4, 30)) + 5

    def dropped(x):
        return layers.Dropout(0.4, deterministic=False)(x, rngs=nnx.Rngs(dropout=jax.random.key(0)))

    half = dropped(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half == 0, dropped(x) == 0)
    np.testing.assert_allclose(jax.grad(lambda x: dropped(x).sum())(x), dropped(x) / x, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"model__padding": ("valid",)}, {"model__pool_stride": 1, "model__padding": ("valid",)}]
)
def test_an_image_that_vanishes_is_named_with_the_block(options):
    with pytest.raises(DataError, match="nothing is left of the image after block"):
        state.network(settings(image__size=4, model__channels=(2, 2, 2), **options), 2)


def test_describe_of_an_image_that_is_too_small_is_one_line(tmp_path):
    describe = importlib.import_module("cnnjax.commands.describe").describe
    config = config_lib.load_config(CONFIGS / "flowers.py", {"image.size": 4, "data.cache_dir": str(tmp_path)})
    with pytest.raises(UserError, match="4 pixels are too small.*--config.image.size") as error:
        describe(config, tmp_path)
    assert len(str(error.value).splitlines()) == 1
