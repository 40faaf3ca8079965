"""Augmentation against SciPy, its drawn parameters, and its purity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnnjax import augment as augment_lib
from cnnjax import config as config_lib

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)


def section(**values):
    config = config_lib.default().augment
    for name, value in values.items():
        config[name] = value
    return config


def draw(count=4000, **values):
    return np.asarray(augment_lib.draw_matrices(jax.random.key(3), count, section(**values)))


def test_all_off_returns_the_images_themselves():
    assert augment_lib.augment(jax.random.key(0), IMAGES, section()) is IMAGES


@pytest.mark.parametrize("fill", ["reflect", "nearest", "constant", "wrap"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_the_identity_matrix_changes_nothing(fill, interpolation):
    identity = jnp.broadcast_to(jnp.eye(2, 3), (3, 2, 3))
    out = augment_lib.sample(IMAGES, identity, interpolation=interpolation, fill=fill)
    assert out.dtype == jnp.float32 and np.allclose(out, IMAGES, atol=1e-3)


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("nearest", "nearest"), ("wrap", "grid-wrap"),
                                            ("constant", "grid-constant")])  # fmt: skip
@pytest.mark.parametrize(("interpolation", "order", "tolerance"), [("bilinear", 1, 0.01), ("nearest", 0, 0)])
def test_sampling_is_scipys_affine_transform(fill, mode, interpolation, order, tolerance):
    matrices = draw(3, rotation=40.0, zoom=0.3, shift=0.3, flip_horizontal=True, flip_vertical=True)
    out = np.asarray(augment_lib.sample(IMAGES, jnp.asarray(matrices), interpolation=interpolation, fill=fill))
    centre = np.full(2, (20 - 1) / 2)
    for image, matrix, ours in zip(IMAGES, matrices.astype(np.float64), out, strict=True):
        offset = centre + 20 * matrix[:, 2] - matrix[:, :2] @ centre
        for channel in range(3):
            theirs = ndimage.affine_transform(
                image[..., channel].astype(np.float64), matrix[:, :2], offset, order=order, mode=mode
            )
            different = np.abs(ours[..., channel] - theirs) > max(tolerance, 1e-6)
            # Nearest neighbours of positions at a half may differ by rounding in float32.
            assert different.mean() <= (0.01 if order == 0 else 0)


def test_a_sure_flip_is_a_flip():
    flipped = augment_lib.sample(
        IMAGES, jnp.asarray([[[1, 0, 0], [0, -1.0, 0]]] * 3), interpolation="bilinear", fill="reflect"
    )
    assert np.allclose(flipped, IMAGES[:, :, ::-1], atol=1e-3)


def test_drawn_parameters_have_their_ranges_and_are_uniform():
    matrices = draw(rotation=30.0)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert angles.min() > -30.01 and angles.max() < 30.01
    assert abs(angles.mean()) < 1 and angles.std() == pytest.approx(30 / np.sqrt(3), rel=0.05)
    scales = np.sqrt(np.linalg.det(draw(zoom=0.2)[:, :, :2]))
    assert scales.min() >= 0.7999 and scales.max() <= 1.2001 and scales.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.05)
    shifts = draw(shift=0.25)[:, :, 2]
    assert np.abs(shifts).max() <= 0.25 and shifts.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.05)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.05


@pytest.mark.parametrize(("name", "row"), [("flip_vertical", 0), ("flip_horizontal", 1)])
def test_half_of_the_images_are_flipped(name, row):
    signs = draw(**{name: True})[:, row, row]
    assert set(signs) == {-1.0, 1.0} and abs((signs < 0).mean() - 0.5) < 0.03
    assert (draw(**{name: True})[:, 1 - row, 1 - row] == 1).all()


def test_the_same_key_gives_the_same_images_and_another_key_others():
    config = section(rotation=20.0, flip_horizontal=True)
    first, again, other = (augment_lib.augment(jax.random.key(k), IMAGES, config) for k in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other)
    assert not np.allclose(first[0], augment_lib.augment(jax.random.key(1), IMAGES[[0, 0, 0]], config)[1])
