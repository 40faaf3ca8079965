"""Layers: scaled images, statistics of batches, and dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from training_tools import network_of, settings

from cnnjax import inference
from cnnjax.models import layers
from cnnjax.training import optimizers, state, steps


def random_images(count, size):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def small():
    """A network with dropout, its parameters and its statistics."""
    network = network_of(settings(image__size=8, model__channels=(4,), model__dense=(), model__dropout_features=0.5), 2)
    return network, *jax.jit(network.make)()


def test_images_are_scaled_to_one(small):
    # Without biases the network is positively homogeneous: its logits show the scale of its input.
    network, params, stats = small
    images = random_images(4, 8)
    got = inference.logits_step({"params": params, "stats": stats}, images, network=network)
    model = nnx.merge(network.eval_def, params, stats)
    x = images.astype(jnp.float32) / 255
    for layer in model.layers:
        x = model.apply(layer, x)
    np.testing.assert_allclose(got, x, rtol=1e-5)
    assert 0.01 < np.abs(got).max() < 10


def test_batch_normalisation_keeps_statistics_and_evaluation_uses_them():
    config = settings(image__size=8, model__channels=(4,), model__dense=(8,), model__norm="batch")
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 0.0)
    before = jax.jit(lambda: state.initial(network, tx))()
    batch = {"image": random_images(16, 8), "label": jnp.arange(16, dtype=jnp.int32) % 2}
    step = functools.partial(steps.train_step, network=network, tx=tx, recipe=steps.recipe(config))
    after, _ = jax.jit(step)(before, batch)
    x = batch["image"].astype(jnp.float32) / 255
    kernel = before.params["conv1"]["kernel"]
    features = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(after.stats["norm_conv1"]["mean"], features.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.stats["norm_conv1"]["var"], features.var((0, 1, 2)), rtol=1e-3)  # the first of a mean

    @jax.jit
    def evaluated(stats, images):
        return inference.logits_step({"params": after.params, "stats": stats}, images, network=network)

    whole = evaluated(after.stats, batch["image"])
    assert not np.allclose(evaluated(before.stats, batch["image"]), whole)
    # One image alone gives what it gives among others: no statistics of the batch in evaluation.
    np.testing.assert_allclose(evaluated(after.stats, batch["image"][:1]), whole[:1], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only_and_keeps_the_expectation(small):
    network, params, stats = small
    image = random_images(1, 8)
    plain = inference.logits_step({"params": params, "stats": stats}, image, network=network)
    many = jnp.repeat(image, 4000, axis=0)
    dropped = jax.jit(lambda *made: nnx.merge(network.train_def, *made)(many, nnx.Rngs(dropout=jax.random.key(0))))(
        params, stats
    )
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
