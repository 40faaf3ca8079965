"""Augmentation of whole batches: oblong images, independent draws, and the same on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from training_tools import on_devices, settings

from cnnjax.augment import augment, draw_matrices, sample

SCIPY_MODES = {"reflect": "reflect", "nearest": "nearest", "constant": "grid-constant", "wrap": "grid-wrap"}


def section(**values):
    return settings(**{f"augment__{key}": value for key, value in values.items()}).augment


def matrices_for(count, **values):
    return np.asarray(draw_matrices(jax.random.key(0), count, section(**values)), np.float64)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("fill", SCIPY_MODES)
@pytest.mark.parametrize("interpolation, order", [("bilinear", 1), ("nearest", 0)])
def test_sampling_of_oblong_images_far_outside_equals_scipy(images, fill, interpolation, order):
    rng = np.random.default_rng(1)
    linear = np.eye(2) + rng.uniform(-0.7, 0.7, (len(images), 2, 2))
    shift = rng.uniform(-0.9, 0.9, (len(images), 2))
    matrices = jnp.asarray(np.concatenate([linear, shift[..., None]], -1), jnp.float32)
    got = sample(jnp.asarray(images), matrices, interpolation=interpolation, fill=fill)
    sides = np.array(images.shape[1:3])
    centre = (sides - 1) / 2
    for i, image in enumerate(images):
        in_pixels = linear[i] * sides[:, None] / sides[None, :]
        offset = centre + shift[i] * sides - in_pixels @ centre
        for channel in range(3):
            expected = scipy.ndimage.affine_transform(image[..., channel].astype(np.float64), in_pixels, offset,
                                                      order=order, mode=SCIPY_MODES[fill], cval=0.0)  # fmt: skip
            np.testing.assert_allclose(got[i, ..., channel], expected, atol=0 if order == 0 else 0.02)


@pytest.mark.parametrize(
    "options, measured, low, width",
    [
        ({"rotation": 30.0}, lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])), -30, 60),
        ({"zoom": 0.2}, lambda m: m[:, 0, 0], 0.8, 0.4),
        ({"shift": 0.15}, lambda m: m[:, 0, 2], -0.15, 0.3),
        ({"shift": 0.15}, lambda m: m[:, 1, 2], -0.15, 0.3),
    ],
)
def test_each_strength_is_uniform_and_changes_nothing_else(options, measured, low, width):
    m = matrices_for(4000, **options)
    assert scipy.stats.kstest(measured(m), "uniform", (low, width)).pvalue > 0.001
    np.testing.assert_allclose(m[:, 0, 0], m[:, 1, 1], atol=1e-6)
    if "rotation" in options:
        np.testing.assert_allclose(np.linalg.det(m[:, :, :2]), 1, atol=1e-5)
    else:
        assert not m[:, 0, 1].any() and not m[:, 1, 0].any()
    assert m[:, :, 2].any() == ("shift" in options)


def test_strengths_are_drawn_independently():
    m = matrices_for(4000, rotation=30.0, zoom=0.2, shift=0.1, flip_horizontal=True)
    scale = np.hypot(m[:, 0, 0], m[:, 1, 0])  # the column of y, which is not mirrored
    angle = np.arctan2(m[:, 1, 0], m[:, 0, 0])
    mirrored = np.linalg.det(m[:, :, :2]) < 0
    columns = np.stack([scale, angle, m[:, 0, 2], m[:, 1, 2], mirrored], 1)
    assert scipy.stats.kstest(scale, "uniform", (0.8, 0.4)).pvalue > 0.001
    assert np.abs(np.corrcoef(columns.T)[np.triu_indices(5, 1)]).max() < 4 / 4000**0.5


@pytest.mark.parametrize("flip, turned", [("flip_horizontal", lambda x: x[:, ::-1]), ("flip_vertical", lambda x: x[::-1])])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_flipped_batch_holds_the_image_and_its_mirror_image(images, flip, turned, interpolation):
    out = np.asarray(augment(jax.random.key(3), jnp.repeat(jnp.asarray(images[:1]), 16, axis=0),
                             section(**{flip: True}, interpolation=interpolation)))  # fmt: skip
    as_it_was = [np.allclose(x, images[0], atol=2e-3) for x in out]
    mirrored = [np.allclose(x, turned(images[0]), atol=2e-3) for x in out]
    assert any(as_it_was) and any(mirrored)
    assert all(a != b for a, b in zip(as_it_was, mirrored, strict=True))


def test_images_of_a_batch_are_augmented_differently_and_stay_in_range(images):
    same = jnp.repeat(jnp.asarray(images[:1]), 8, axis=0)
    out = np.asarray(augment(jax.random.key(0), same, section(rotation=20.0)))
    assert len(np.unique(out.reshape(8, -1), axis=0)) == 8
    assert out.min() >= 0 and out.max() <= 255


def test_a_window_that_is_zoomed_out_shows_the_fill():
    white = jnp.full((1, 16, 16, 3), 255, jnp.uint8)
    twice = jnp.asarray([[[2.0, 0, 0], [0, 2.0, 0]]])
    out = np.asarray(sample(white, twice, interpolation="nearest", fill="constant"))[0, ..., 0]
    assert (out[4:12, 4:12] == 255).all() and out.sum() == 255 * 64
    assert (np.asarray(sample(white, twice, interpolation="nearest", fill="reflect")) == 255).all()


CODE = """
import json, jax, numpy as np
from training_tools import settings
from cnnjax import pipeline, runtime
from cnnjax.augment import augment
config = settings(augment__rotation=30.0, augment__zoom=0.2, augment__shift=0.1, augment__flip_horizontal=True).augment
images = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8)
mesh = runtime.mesh()
out = jax.jit(lambda x: augment(jax.random.key(7), x, config))(pipeline.put(images, runtime.batched(mesh)))
print(json.dumps({"devices": len(out.sharding.device_set), "values": np.asarray(out).ravel().tolist()}))
"""


def test_one_and_eight_devices_augment_alike():
    one, eight = on_devices(1, CODE), on_devices(8, CODE)
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_allclose(eight["values"], one["values"], atol=1e-2)
