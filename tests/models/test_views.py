"""Views of an image at test time."""

import jax.numpy as jnp
import numpy as np
import pytest
from training_tools import Said, settings

import cnnjax
from cnnjax import models
from cnnjax.commands.train import train
from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(48, 2)).astype(np.float32)


def flat(images):
    return images.reshape(images.shape[0], -1) @ WEIGHTS


def mirror(images):
    return images[:, :, ::-1]


def test_views_are_all_ways_to_lay_a_square():
    mean = lambda views: np.mean([flat(view) for view in views], 0)  # noqa: E731
    turned = [np.rot90(IMAGES, k, axes=(1, 2)) for k in range(4)]
    for name, views in {
        "plain": [IMAGES],
        "mirrored": [IMAGES, mirror(IMAGES)],
        "turned": [*turned, *map(mirror, turned)],
    }.items():
        np.testing.assert_allclose(models.averaged(flat, jnp.asarray(IMAGES), name), mean(views), rtol=1e-5, atol=1e-5)
        for how, expected in zip(models.VIEWS[name], views, strict=True):
            np.testing.assert_array_equal(models.view(jnp.asarray(IMAGES), *how), expected)


@pytest.mark.slow
def test_a_run_with_views_answers_the_same_for_an_image_and_its_mirror(make, tmp_path, without_pictures):
    run = train(make(image__views="turned", train__epochs=1), tmp_path / "run", progress=Said())
    loaded = cnnjax.load(tmp_path / "run")
    assert loaded.preprocessing.views == "turned"
    images = np.random.default_rng(0).integers(0, 256, (4, *loaded.preprocessing.shape, 3), dtype=np.uint8)
    shown = loaded.predict_proba(images)
    for other in (mirror(images), np.rot90(images, axes=(1, 2)), images[:, ::-1]):
        np.testing.assert_allclose(loaded.predict_proba(np.ascontiguousarray(other)), shown, atol=1e-6)
    assert np.ptp(shown[:, 1]) > 0
    (row,) = run.history  # of images as they are
    assert cnnjax.evaluate(tmp_path / "run", "val")["loss"] == pytest.approx(run.summary.val["loss"], rel=1e-4)
    assert abs(row["val_loss"] - run.summary.val["loss"]) > 1e-6


def test_old_preprocessing_has_one_view_and_oblong_images_cannot_be_turned():
    assert Preprocessing.from_dict({"size": 8, "resize": "pad"}).views == "plain"
    with pytest.raises(ConfigError, match=r"^image.views='turned': turns by 90 degrees"):
        settings(image__views="turned", image__size=32, image__width=48)
