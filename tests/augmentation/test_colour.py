"""Colour against Pillow, scikit-image and SciPy, each operation at fixed numbers and at the one that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats
from skimage import color, exposure
from training_tools import settings

from cnnjax.augmentation import colour
from cnnjax.augmentation import operations as augment

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 18, 3), np.uint8)
IMAGES[0] = IMAGES[0] // 4 + 90  # low contrast, so that not all is clipped
IMAGES[1, :8] = IMAGES[1, :8, :, :1]  # grey
IMAGES[2, 0, 0], IMAGES[2, 0, 1] = 0, 255
FLOATS = IMAGES.astype(np.float32)
LEVELS = 0.01  # of 255; what float32 may cost


def run(name, images, value):
    """An operation at a number, or a tuple of them, that is the same for all images."""
    values = np.full((len(images), *np.shape(value)), value, np.float32)
    return np.asarray(jax.jit(getattr(colour, name))(images, values))


def pillow(enhancer):
    return lambda images, factor: np.stack(
        [np.asarray(enhancer(Image.fromarray(image)).enhance(factor)) for image in images]
    )


def turn_hue(images, turns):
    hsv = color.rgb2hsv(images / 255)
    hsv[..., 0] = (hsv[..., 0] + turns) % 1
    return 255 * color.hsv2rgb(hsv)


# Pillow cuts its results down to whole levels, after it has rounded luma and its mean.
REFERENCES = {
    "brightness": (pillow(ImageEnhance.Brightness), (0.0, 0.4, 1.7), 1.01),
    "contrast": (pillow(ImageEnhance.Contrast), (0.0, 0.4, 1.7), 2.0),
    "saturation": (pillow(ImageEnhance.Color), (0.0, 0.4, 1.7), 2.0),
    "hue": (turn_hue, (-0.5, -0.2, 0.03, 0.5), LEVELS),
    "gamma": (lambda x, g: 255 * exposure.adjust_gamma(x / 255, g), (0.2, 0.5, 2.0, 3.0), LEVELS),
    "channel_shift": (lambda x, v: np.clip(x + np.array(v), 0, 255), ((9.5, -20.0, 0.0), (-300.0, 300.0, 1.0)), 0),
}


@pytest.mark.parametrize("name, value", [(name, value) for name, (_, values, _) in REFERENCES.items() for value in values])
def test_each_operation_is_that_of_pillow_scikit_image_or_numpy(name, value):
    reference, _, levels = REFERENCES[name]
    np.testing.assert_allclose(run(name, FLOATS, value), reference(IMAGES, value), atol=levels)


IDENTITIES = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "gamma": 1.0, "channel_shift": (0.0,) * 3,
              "stain": (0.0,) * 6}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_number_of_no_change_changes_nothing(name):
    np.testing.assert_allclose(run(name, FLOATS, IDENTITIES[name]), IMAGES, atol=LEVELS)
    assert np.all(IDENTITIES[name] == np.float32(augment.NUMBERS[name].identity))


@pytest.mark.parametrize("name", ["blur", "noise"])
def test_a_deviation_of_zero_changes_nothing(name):
    option = {"blur": 3, "noise": jax.random.key(0)}[name]
    assert np.array_equal(jax.jit(lambda x: getattr(colour, name)(x, jnp.zeros(4), option))(FLOATS), FLOATS)


@pytest.mark.parametrize("name, value", [("brightness", 1.9), ("contrast", 1.9), ("saturation", 1.9), ("hue", 0.3), ("gamma", 0.5),
                                         ("channel_shift", (99.0, -99.0, 0.0)), ("stain", (-0.9, 0.9, 0.0, -0.5, 0.5, -0.5))])  # fmt: skip
def test_values_stay_in_the_range_and_every_image_has_its_own_number(name, value):
    identity = jnp.broadcast_to(jnp.asarray(IDENTITIES[name]), np.shape(value))
    values = jnp.stack([identity, jnp.asarray(value), identity, jnp.asarray(value)])
    out = np.asarray(jax.jit(getattr(colour, name))(FLOATS, values))
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 255
    np.testing.assert_allclose(out[::2], FLOATS[::2], atol=LEVELS)
    np.testing.assert_allclose(out[1::2], run(name, FLOATS[1::2], value), atol=LEVELS)
    assert np.abs(out[1::2] - FLOATS[1::2]).max() > 10


def test_grey_is_pillows():
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in IMAGES])
    np.testing.assert_allclose(colour.grey(FLOATS)[..., 0], expected, atol=0.51)  # rounded to whole levels


def test_no_saturation_is_grey():
    out = run("saturation", FLOATS, 0.0)
    np.testing.assert_allclose(out, np.repeat(colour.grey(FLOATS), 3, -1), atol=LEVELS)


def test_grey_turns_off_the_saturation_of_its_images():
    numbers = {"saturation": jnp.array([1.5, 1.5, 0.5, 0.5]), "grey": jnp.array([0.0, 1.0, 0.0, 1.0])}
    config = settings().augment
    out = np.asarray(jax.jit(lambda numbers: augment.apply(IMAGES, numbers, config))(numbers))
    grey = np.ptp(out, axis=-1).max((1, 2)) < LEVELS
    assert grey.tolist() == [False, True, False, True]
    np.testing.assert_allclose(out[0], run("saturation", FLOATS[:1], 1.5)[0], atol=LEVELS)


def test_gamma_leaves_black_and_white_as_they_are():
    ends = np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), 255)]).astype(np.float32)
    for exponent in (0.125, 0.5, 1.0, 4.0):
        np.testing.assert_allclose(run("gamma", ends, exponent), ends, atol=0.03)


@pytest.mark.parametrize(
    "jitter", [(0.3, 0, 0, 0, 0, 0), (0, -0.2, 0.1, 0, 0, 0), (0, 0, 0, 0.2, 0.1, 0), (-0.2, 0.1, 0.3, 0.1, 0.2, 0)]
)
def test_stains_are_mixed_as_by_scikit_image(jitter):
    densities = np.random.default_rng(1).uniform(0.0, 1.2, (4, 12, 12, 3))
    unit = -np.log(1e-6)  # scikit-image's unit of density
    images = (255 * color.hed2rgb(densities / unit)).astype(np.float32)
    np.testing.assert_allclose(color.rgb2hed(images / 255) * unit, densities, atol=1e-4)
    expected = 255 * color.hed2rgb((densities * (1 + np.array(jitter[:3])) + np.array(jitter[3:])) / unit)
    np.testing.assert_allclose(run("stain", images, jitter), expected, atol=LEVELS)


@pytest.mark.parametrize("radius", [2, 6])
def test_blur_is_scipys_gaussian_cut_at_the_radius(radius):
    sigmas = (0.3, 0.8, 1.5, 4.0)
    out = jax.jit(colour.blur, static_argnames="radius")(FLOATS, jnp.array(sigmas), radius=radius)
    for image, sigma, ours in zip(FLOATS, sigmas, out, strict=True):
        expected = ndimage.gaussian_filter(image.astype(float), sigma, mode="reflect", radius=radius, axes=(0, 1))
        np.testing.assert_allclose(ours, expected, atol=LEVELS)


@pytest.mark.parametrize(
    "values, widest",
    [
        ({"blur": 2.0}, 2.0),
        ({"trivial_augment": True}, 1.5),
        ({"rand_augment": 2, "rand_augment_magnitude": 0.5}, 1.5),
        ({"blur": 0.5, "rand_augment": 1, "rand_augment_magnitude": 0.9}, 1.85),
    ],
)
def test_blur_is_cut_beyond_three_of_its_widest_deviations(values, widest):
    config = settings(image__size=16, **{f"augment__{key}": value for key, value in values.items()}).augment
    out = jax.jit(lambda sigmas: augment.apply(IMAGES[:1], {"blur": sigmas}, config))(jnp.array([widest]))
    whole = ndimage.gaussian_filter(FLOATS[0].astype(float), widest, mode="reflect", truncate=9, axes=(0, 1))
    np.testing.assert_allclose(out[0], whole, atol=1.0)  # 0.3 % of the weight is beyond three deviations


def test_noise_is_normal_of_its_deviation_and_independent():
    images = jnp.full((4, 64, 64, 3), 127.5)
    sigmas = np.array([0.0, 2.0, 5.0, 20.0])
    out = np.asarray(jax.jit(colour.noise)(images, jnp.asarray(sigmas), jax.random.key(1))) - 127.5
    assert not out[0].any()
    standard = (out[1:] / sigmas[1:, None, None, None]).reshape(3, -1)
    for values in standard:
        assert stats.kstest(values, "norm").pvalue > 0.001
    columns = np.concatenate([standard, standard[:, :-1] * standard[:, 1:]], 1)  # neighbours, channels among them
    assert np.abs(columns[:, standard.shape[1] :].mean(1)).max() < 4 / standard.shape[1] ** 0.5
    half = standard.reshape(3, 2, -1)  # the two halves share their random words
    assert np.abs(np.mean(half[:, 0] * half[:, 1], -1)).max() < 4 / half.shape[-1] ** 0.5
    assert np.abs(np.corrcoef(standard)[np.triu_indices(3, 1)]).max() < 4 / standard.shape[1] ** 0.5


def test_noise_is_another_with_another_key_and_clipped():
    noise = jax.jit(colour.noise)
    a, b, again = (noise(FLOATS, jnp.full(4, 30.0), jax.random.key(k)) for k in (0, 1, 0))
    assert np.array_equal(a, again) and not np.allclose(a, b)
    assert a.min() >= 0 and a.max() <= 255


def test_erasing_fills_the_box_with_the_mean_colour_and_leaves_the_rest():
    boxes = np.array([[2, 3, 7, 11], [0, 0, 16, 18], [5, 5, 5, 9], [-3, 12, 4, 40]], np.int32)
    out = np.asarray(jax.jit(colour.erase)(FLOATS, boxes))
    for image, (top, left, bottom, right), ours in zip(FLOATS, boxes, out, strict=True):
        expected = image.copy()
        expected[max(top, 0) : bottom, left:right] = image.mean((0, 1))
        np.testing.assert_allclose(ours, expected, atol=LEVELS)
