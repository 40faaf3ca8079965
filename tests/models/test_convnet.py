"""The network of blocks: its layers, dropout and initial weights, what it computes, and images that are too small for it."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_tools import CONFIGS, network_of, settings

from cnnjax import config as config_lib
from cnnjax.errors import DataError, UserError


def test_relu_follows_every_layer_with_weights_but_the_last():
    network = network_of(config_lib.load_config(CONFIGS / "malaria.py"), 2)
    weighted = [layer for layer in network.model.layers if layer.kind in ("conv", "dense")]
    assert [layer.relu for layer in weighted] == [True] * 7 + [False]


@pytest.mark.parametrize("file, rates", [("flowers.py", (0.2, 0.0)), ("malaria.py", (0.0, 0.2))])
def test_dropout_rates_of_the_exercises(file, rates):
    model = network_of(config_lib.load_config(CONFIGS / file), 5).model
    assert (model.drop_features.rate, model.drop_dense.rate) == rates


def small(precision: str = "float32"):
    options = {"image__size": 16, "model__channels": (16, 8), "model__dense": (8,), "train__precision": precision}
    return network_of(settings(**options), 3)


@pytest.fixture(scope="module")
def made():
    """Parameters and statistics of `small()`."""
    return jax.jit(small().make)()


def test_initial_weights_are_those_of_keras(made):
    kernel = np.asarray(made[0]["conv1"]["kernel"])
    limit = np.sqrt(6 / (9 * 3 + 9 * 16))  # Glorot uniform
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    assert not np.asarray(made[0]["conv1"]["bias"]).any()


@functools.cache
def compiled_logits(precision: str):
    network = small(precision)
    return jax.jit(lambda made, images: nnx.merge(network.eval_def, *made)(images))


IMAGES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)


def test_images_may_be_bytes_or_floats(made):
    logits = compiled_logits("float32")
    assert np.array_equal(logits(made, IMAGES), logits(made, IMAGES.astype(np.float32)))


def test_bfloat16_gives_float32_logits_near_those_of_float32(made):
    exact, rough = (compiled_logits(precision)(made, IMAGES) for precision in ("float32", "bfloat16"))
    assert exact.dtype == rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({"model__channels": (4, 8), "model__padding": ("valid",)}, 2),
        ({"model__channels": (2, 2, 2)}, 3),
        ({"model__channels": (2, 2, 2), "model__padding": ("valid",)}, 2),
        ({"model__channels": (2, 2, 2), "model__pool_stride": 1, "model__padding": ("valid",)}, 2),
    ],
)
def test_an_image_that_vanishes_is_named_with_the_block(options, block):
    with pytest.raises(DataError, match=f"nothing is left of the image after block {block}"):
        network_of(settings(image__size=4, **options), 2)


def test_describe_of_an_image_that_is_too_small_is_one_line(tmp_path):
    describe = importlib.import_module("cnnjax.commands.describe").describe
    config = config_lib.load_config(CONFIGS / "flowers.py", {"image.size": 4, "data.cache_dir": str(tmp_path)})
    with pytest.raises(UserError, match="4 pixels are too small.*--config.image.size") as error:
        describe(config, tmp_path)
    assert len(str(error.value).splitlines()) == 1
