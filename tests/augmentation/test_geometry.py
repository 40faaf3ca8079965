"""Geometry against SciPy, NumPy and Pillow: the sampling, each operation at a fixed number, and all of them as one matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from training_tools import settings

from cnnjax.augmentation import geometry
from cnnjax.augmentation import operations as augment

SIZE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
SCIPY = {"reflect": "reflect", "nearest": "nearest", "constant": "grid-constant", "wrap": "grid-wrap"}
NUMPY = {"reflect": "symmetric", "nearest": "edge", "constant": "constant", "wrap": "wrap"}
ORDER = {"nearest": 0, "bilinear": 1}
LEVELS = 0.01  # of 255; what float32 positions may cost on noise, which no image exceeds

sample = jax.jit(geometry.sample, static_argnames=("interpolation", "fill"))


def section(**values):
    return settings(**{f"augment__{key}": value for key, value in values.items()}).augment


def warp(images, fill="reflect", interpolation="bilinear", config=None, **numbers):
    """Images at numbers that are the same for all of them."""
    numbers = {name: jnp.full(len(images), value, jnp.float32) for name, value in numbers.items()}
    matrices = geometry.compose(numbers, images.shape[1:3], config or section())
    return np.asarray(sample(images, matrices, interpolation=interpolation, fill=fill))


def affine(images, linear, shift=(0, 0), fill="reflect", order=1):
    """SciPy's: `linear` about the centre and then `shift`, from output to input pixels (y, x)."""
    linear, centre = np.asarray(linear, float), (np.array(images.shape[1:3]) - 1) / 2
    offset = centre + shift - linear @ centre
    return np.stack([
        np.stack([ndimage.affine_transform(image[..., c].astype(float), linear, offset, order=order, mode=SCIPY[fill])
                  for c in range(3)], -1)
        for image in images
    ])  # fmt: skip


# Sampling


@pytest.mark.parametrize("fill", SCIPY)
@pytest.mark.parametrize("interpolation", ORDER)
def test_the_identity_matrix_changes_nothing(fill, interpolation):
    identity = jnp.broadcast_to(jnp.eye(2, 3), (4, 2, 3))
    out = sample(IMAGES, identity, interpolation=interpolation, fill=fill)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, IMAGES, atol=0 if interpolation == "nearest" else 1e-3)


@pytest.mark.parametrize("fill", SCIPY)
@pytest.mark.parametrize("interpolation", ORDER)
def test_sampling_of_oblong_images_far_outside_is_scipys(fill, interpolation):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (6, 12, 17, 3), dtype=np.uint8)
    linear, shift = np.eye(2) + rng.uniform(-0.7, 0.7, (6, 2, 2)), rng.uniform(-0.9, 0.9, (6, 2))
    matrices = jnp.asarray(np.concatenate([linear, shift[..., None]], -1), jnp.float32)
    out = sample(images, matrices, interpolation=interpolation, fill=fill)
    sides = np.array([12, 17])
    for i in range(6):
        pixels = linear[i] * sides[:, None] / sides[None, :]
        expected = affine(images[i : i + 1], pixels, shift[i] * sides, fill, ORDER[interpolation])[0]
        np.testing.assert_allclose(out[i], expected, atol=0 if interpolation == "nearest" else 0.02)


@pytest.mark.parametrize("size", [30, 180, 1000])
def test_positions_are_exact_to_a_hundredth_of_a_pixel(size):
    angle = np.deg2rad(77)
    rotated = 0.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    ramps = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
    matrices = jnp.asarray(np.concatenate([rotated, [[0.01], [-0.02]]], 1)[None], jnp.float32)
    out = np.asarray(sample(ramps[None].astype(np.float32), matrices, interpolation="bilinear", fill="nearest"))[0]
    half = (size - 1) / 2
    expected = (ramps - half) @ rotated.T + half + np.array([0.01, -0.02]) * size
    np.testing.assert_allclose(out, np.clip(expected, 0, size - 1), atol=0.01)


def test_sampling_takes_float_images_and_keeps_their_range():
    images = IMAGES / np.float32(255) - 1
    out = warp(images, rotation=30.0, zoom=1.3)
    assert out.min() >= -1 and out.max() <= 0
    np.testing.assert_allclose(out, warp(IMAGES, rotation=30.0, zoom=1.3) / 255 - 1, atol=1e-5)


def test_what_is_outside_is_black_only_where_the_fill_is_constant():
    white = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    out = warp(white, "constant", "nearest", zoom=2.0)[0, ..., 0]
    assert (out[4:12, 4:12] == 255).all() and out.sum() == 255 * 64
    for fill in ("reflect", "nearest", "wrap"):
        assert (warp(white, fill, "nearest", zoom=2.0) == 255).all()


# Each operation

GEOMETRY = geometry.GEOMETRY


@pytest.mark.parametrize("name", GEOMETRY)
def test_each_number_at_its_identity_changes_nothing(name):
    numbers = {name: GEOMETRY[name].identity}
    if name.startswith("crop"):
        numbers["crop_area"] = 1.0
    np.testing.assert_allclose(warp(IMAGES, **numbers), IMAGES, atol=2e-3)


TAN = float(np.tan(np.deg2rad(12)))
OPERATIONS = {  # numbers -> the same by another library
    "mirror_x": ({"mirror_x": 1}, lambda x: x[:, :, ::-1]),
    "mirror_y": ({"mirror_y": 1}, lambda x: x[:, ::-1]),
    "quarter": ({"turns": 1}, lambda x: np.rot90(x, 1, (1, 2))),
    "half": ({"turns": 2}, lambda x: np.rot90(x, 2, (1, 2))),
    "three quarters": ({"turns": 3}, lambda x: np.rot90(x, 3, (1, 2))),
    "zoom in": ({"zoom": 0.8}, lambda x: affine(x, [[0.8, 0], [0, 0.8]])),
    "zoom out": ({"zoom": 1.3}, lambda x: affine(x, [[1.3, 0], [0, 1.3]])),
    "stretch_y": ({"stretch_y": 0.7}, lambda x: affine(x, [[0.7, 0], [0, 1]])),
    "stretch_x": ({"stretch_x": 1.2}, lambda x: affine(x, [[1, 0], [0, 1.2]])),
    "shear": ({"shear": 12}, lambda x: affine(x, [[1, 0], [TAN, 1]])),
    "rotation": ({"rotation": 25}, lambda x: ndimage.rotate(x.astype(float), -25, (1, 2), reshape=False, order=1, mode="reflect")),
    "shift_y": ({"shift_y": 0.2}, lambda x: ndimage.shift(x.astype(float), (0, -0.2 * SIZE, 0, 0), order=1, mode="reflect")),
    "shift_x": ({"shift_x": -0.3}, lambda x: ndimage.shift(x.astype(float), (0, 0, 0.3 * SIZE, 0), order=1, mode="reflect")),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_that_of_scipy_or_numpy(name):
    numbers, reference = OPERATIONS[name]
    np.testing.assert_allclose(warp(IMAGES, **numbers), reference(IMAGES), atol=LEVELS)


@pytest.mark.parametrize("fill", SCIPY)
@pytest.mark.parametrize("numbers", [{"turns": 1}, {"turns": 3}, {"mirror_x": 1, "mirror_y": 1}])
def test_turns_and_mirrors_move_whole_pixels_with_nearest_neighbours(fill, numbers):
    expected = np.rot90(IMAGES, numbers.get("turns", 2), (1, 2))
    assert np.array_equal(warp(IMAGES, fill, "nearest", **numbers), expected)


@pytest.mark.parametrize("fill", NUMPY)
@pytest.mark.parametrize("y, x", [(3, -3), (-2, 1), (0, 5), (-5, -5)])
def test_padding_and_cutting_back_are_those_of_numpy(fill, y, x):
    padded = np.pad(IMAGES, ((0, 0), (5, 5), (5, 5), (0, 0)), NUMPY[fill])
    expected = padded[:, 5 + y : 5 + y + SIZE, 5 + x : 5 + x + SIZE]
    assert np.array_equal(warp(IMAGES, fill, "nearest", pad_y=y, pad_x=x), expected)
    np.testing.assert_allclose(warp(IMAGES, fill, "bilinear", pad_y=y, pad_x=x), expected, atol=2e-3)


@pytest.mark.parametrize("ratio, y, x", [(0, 0, 0), (1, -1, 1), (-1, 1, -1), (0.4, 0.3, -0.7)])
@pytest.mark.parametrize("area", [0.1, 0.5, 0.9])
def test_a_crop_is_pillows_crop_and_enlargement(area, ratio, y, x):
    oblong = np.exp(min(np.log(2), -np.log(area)) * ratio)  # width / height
    height, width = SIZE * np.sqrt(area / oblong), SIZE * np.sqrt(area * oblong)
    assert height <= SIZE + 1e-6 and width <= SIZE + 1e-6
    top, left = (1 + y) / 2 * (SIZE - height), (1 + x) / 2 * (SIZE - width)
    box = tuple(np.clip((left, top, left + width, top + height), 0, SIZE))
    channels = [Image.fromarray(IMAGES[0, ..., c].astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(c.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)) for c in channels], -1)
    out = warp(IMAGES[:1], config=section(crop_ratio=2.0), crop_area=area, crop_ratio=ratio, crop_y=y, crop_x=x)
    np.testing.assert_allclose(out[0], expected, atol=LEVELS)


# All as one


def positions(numbers, size):
    """The chain of `geometry.compose` as in its docstring, step by step on pixel positions [size, size] in float64."""
    half = (size - 1) / 2
    y, x = np.meshgrid(np.arange(size) - half, np.arange(size) - half, indexing="ij")
    y, x = y * (1 - 2 * numbers["mirror_y"]), x * (1 - 2 * numbers["mirror_x"])
    for _ in range(int(numbers["turns"])):
        y, x = x, -y
    y, x = y * numbers["zoom"] * numbers["stretch_y"], x * numbers["zoom"] * numbers["stretch_x"]
    x = x + y * np.tan(np.deg2rad(numbers["shear"]))
    turned = (y + 1j * x) * np.exp(1j * np.deg2rad(numbers["rotation"]))
    y, x = turned.real + numbers["shift_y"] * size, turned.imag + numbers["shift_x"] * size
    area = numbers["crop_area"]
    oblong = np.exp(min(np.log(4 / 3), -np.log(area)) * numbers["crop_ratio"])
    height, width = np.sqrt(area / oblong), np.sqrt(area * oblong)
    y = y * height + numbers["crop_y"] * (1 - height) / 2 * size + numbers["pad_y"]
    x = x * width + numbers["crop_x"] * (1 - width) / 2 * size + numbers["pad_x"]
    return y + half, x + half


ALL = {"flip_horizontal": True, "flip_vertical": True, "turns": True, "rotation": 40.0, "zoom": 0.3, "stretch": 0.2, "shear": 15.0,
       "shift": 0.2, "crop_area": 0.4, "pad_crop": 3}  # fmt: skip


@functools.cache
def draw(count):
    return jax.jit(lambda key: augment.draw(key, count, section(**ALL)))(jax.random.key(5))


@pytest.mark.parametrize("fill", SCIPY)
@pytest.mark.parametrize("interpolation", ORDER)
def test_all_operations_together_are_one_sampling_at_the_end_of_the_chain(fill, interpolation):
    images = np.tile(IMAGES, (4, 1, 1, 1))
    config = section(**ALL, fill=fill, interpolation=interpolation)
    numbers = draw(16)
    assert numbers.keys() == GEOMETRY.keys()
    out = np.asarray(jax.jit(lambda images: augment.apply(images, numbers, config))(images))
    different = []
    for i, image in enumerate(images):
        at = positions({name: float(value[i]) for name, value in numbers.items()}, SIZE)
        for c in range(3):
            expected = ndimage.map_coordinates(image[..., c].astype(float), at, order=ORDER[interpolation], mode=SCIPY[fill])
            different.append(np.abs(out[i, ..., c] - expected))
    # A position between two pixels may fall to either: rounding in float32, and float64.
    assert (np.array(different) > 0.05).mean() <= (1e-3 if interpolation == "nearest" else 0)


def test_the_map_of_two_matrices_applies_the_first_one_first():
    rng = np.random.default_rng(2)
    first, second = (rng.normal(size=(3, 2, 3)).astype(np.float32) for _ in range(2))
    point = np.array([0.3, -0.2])
    for a, b, both in zip(first, second, np.asarray(geometry.then(first, second)), strict=True):
        middle = a[:, :2] @ point + a[:, 2]
        np.testing.assert_allclose(both[:, :2] @ point + both[:, 2], b[:, :2] @ middle + b[:, 2], atol=1e-5)


def test_matrices_are_multiplied_in_full_precision_on_every_device():
    products = jax.make_jaxpr(geometry.then)(jnp.ones((4, 2, 3)), jnp.ones((4, 2, 3))).eqns
    precisions = [e.params["precision"] for e in products if e.primitive.name == "dot_general"]
    assert precisions == [(jax.lax.Precision.HIGHEST,) * 2]
