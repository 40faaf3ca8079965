"""ZCA whitening: the fit against NumPy and scikit-learn, the layer, and runs that are fitted once and on training images only."""

import csv
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.decomposition import PCA
from training_tools import network_of, tiny

import cnnjax
from cnnjax import checkpoints, inference, models, runtime
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.train import train
from cnnjax.data import dataset, whitening
from cnnjax.errors import Stopped, UserError
from cnnjax.progress import Progress
from cnnjax.runs import RunDirectory
from cnnjax.training import start

pytestmark = pytest.mark.usefixtures("without_pictures")
RNG = np.random.default_rng(0)


def smooth_images(count, size=4):
    """uint8; neighbours and channels are alike."""
    noise = RNG.normal(0, 1, (count, size, size, 3))
    alike = noise + 2 * noise.mean((1, 2), keepdims=True) * size + noise.mean(-1, keepdims=True)
    return np.clip(alike * 16 + (90, 120, 150), 0, 255).astype(np.uint8)


IMAGES = smooth_images(1300)
ROWS = np.arange(1200)


def flat(images):
    return images.reshape(len(images), -1) / 255


def whiten(images, mean, matrix):
    return (flat(images) - mean.ravel()) @ matrix.astype(float)


# The fit


def test_whitened_training_images_are_uncorrelated_and_of_variance_one():
    mean, matrix = whitening.fit(IMAGES, ROWS, 1e-9)
    white = whiten(IMAGES[ROWS], mean, matrix)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(48), atol=1e-4)
    x = flat(IMAGES[ROWS])
    assert np.abs(np.corrcoef(x.T) - np.eye(48)).max() > 0.5  # as they were not before


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 0.1])
def test_the_matrix_is_that_of_the_formula(epsilon):
    mean, matrix = whitening.fit(IMAGES, ROWS, epsilon)
    x = flat(IMAGES[ROWS])
    np.testing.assert_allclose(mean.ravel(), x.mean(0), atol=1e-6)
    u, s, _ = np.linalg.svd((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    np.testing.assert_allclose(matrix, u @ np.diag(1 / np.sqrt(s + epsilon)) @ u.T, atol=1e-6 * np.abs(matrix).max())
    assert mean.shape == (4, 4, 3) and matrix.shape == (48, 48) and mean.dtype == matrix.dtype == np.float32


def test_it_is_scikit_learns_whitening_turned_back_to_the_pixels():
    mean, matrix = whitening.fit(IMAGES, ROWS, 1e-9)
    pca = PCA(whiten=True, svd_solver="full").fit(flat(IMAGES[ROWS]))
    turned_back = pca.transform(flat(IMAGES)) @ pca.components_ * (len(ROWS) / (len(ROWS) - 1)) ** 0.5
    np.testing.assert_allclose(whiten(IMAGES, mean, matrix), turned_back, atol=1e-4)


def test_only_the_given_rows_are_fitted_to_in_any_number_of_chunks(monkeypatch):
    rows = RNG.permutation(1300)[:700]
    mean, matrix = whitening.fit(IMAGES, rows, 1e-4)
    others = np.setdiff1d(np.arange(1300), rows)
    changed = IMAGES.copy()
    changed[others] = 255 - changed[others]
    again = whitening.fit(changed, rows, 1e-4)
    assert np.array_equal(again[0], mean) and np.array_equal(again[1], matrix)
    monkeypatch.setattr(whitening, "CHUNK", 97)
    for a, b in zip(whitening.fit(IMAGES, rows, 1e-4), (mean, matrix), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_never_varies_is_divided_by_the_root_of_epsilon():
    few = whitening.fit(IMAGES, np.arange(10), 1e-4)[1]
    values = np.linalg.eigvalsh(few)
    np.testing.assert_allclose(values[-39:], 100, rtol=1e-3)  # ten images vary in nine directions
    np.testing.assert_allclose(few, few.T, atol=1e-4)
    same = whitening.fit(np.full((5, 4, 4, 3), 77, np.uint8), np.arange(5), 1e-4)[1]
    np.testing.assert_allclose(same, 100 * np.eye(48), rtol=1e-3, atol=1e-2)


def test_variances_far_below_the_squares_of_the_pixels_are_exact():
    levels = RNG.integers(0, 2, (900, 4, 4, 3)) * (RNG.random((4, 4, 3)) < 0.5) + 250  # variances of 0 and 4e-6
    levels[:, 0, 0] = np.where(RNG.random((900, 1)) < 0.01, 251, 250)  # and of 2e-7
    x = flat(levels) - flat(levels).mean(0)
    variances, directions = np.linalg.eigh(x.T @ x / 900)
    expected = (directions / np.sqrt(variances.clip(0) + 1e-6)) @ directions.T
    matrix = whitening.fit(levels.astype(np.uint8), np.arange(900), 1e-6)[1]
    np.testing.assert_allclose(matrix, expected, atol=0.01)  # of 1000


# The layer


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-8)])
def test_the_layer_is_the_identity_until_it_is_fitted_and_then_whitens_in_float32(dtype, tolerance):
    layer = models.Whiten((4, 4), dtype)
    x = (IMAGES[:20] / 255).astype(np.float32)
    np.testing.assert_allclose(layer(x).astype(jnp.float32), x, rtol=tolerance)
    mean, matrix = whitening.fit(IMAGES, ROWS, 1e-4)
    layer.mean[...], layer.matrix[...] = jnp.asarray(mean), jnp.asarray(matrix)
    out = layer(x)
    assert out.shape == x.shape and out.dtype == dtype
    expected = whiten(IMAGES[:20], mean, matrix).reshape(x.shape)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=tolerance, atol=1e-4)


# Runs

OPTIONS = {"image__size": 8, "image__zca": True, "image__zca_epsilon": 1e-3, "augment__flip_horizontal": True}


@pytest.fixture(scope="module")
def run(cell_folder, cache, tmp_path_factory):
    """Three epochs."""
    workdir, config = tmp_path_factory.mktemp("whitened") / "run", tiny(cell_folder, cache, **OPTIONS)
    return SimpleNamespace(workdir=workdir, config=config, summary=train(config, workdir))


def saved(workdir, config, step="latest"):
    """{"mean", "matrix"} and the parameters of a checkpoint."""
    with checkpoints.Checkpoints(RunDirectory(workdir)) as there:
        abstract = {"model": network_of(config, 2).abstract(runtime.mesh())}
        model = jax.device_get(there.load(there.resolve(step), abstract)["model"])
    return model["stats"]["whiten"], model["params"]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_run_saves_what_was_fitted_to_its_training_images(run):
    data = dataset.prepare(run.config, run.workdir, Progress(), freeze=False)
    mean, matrix = whitening.fit(data.images, data.splits["train"], 1e-3)
    for step in ("best", "latest"):
        fitted, params = saved(run.workdir, run.config, step)
        assert np.array_equal(fitted["mean"], mean) and np.array_equal(fitted["matrix"], matrix)
        assert "whiten" not in params


def test_evaluation_and_prediction_whiten_as_training_did(run, cell_folder):
    assert evaluate(run.workdir, "test")["loss"] == pytest.approx(run.summary["test"]["loss"], rel=1e-6)
    with open(run.workdir / "eval" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    predictions = cnnjax.load(run.workdir).predict([cell_folder / row["id"] for row in rows])
    for row, prediction in zip(rows, predictions, strict=True):
        assert prediction.predicted == row["predicted"]
        assert prediction.probabilities["Parasitized"] == pytest.approx(float(row["p_Parasitized"]), rel=1e-4, abs=1e-6)
    engine = inference.restore(run.workdir).engine
    images = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
    stats = {"whiten": {"mean": jnp.zeros((8, 8, 3)), "matrix": jnp.eye(192)}}
    plain = inference.Engine(engine.run, {**engine.model, "stats": stats}, engine.mesh)
    assert np.abs(engine.logits(images) - plain.logits(images)).max() > 0.01


def test_a_run_that_was_stopped_goes_on_with_what_it_fitted(run, cell_folder, cache, tmp_path, monkeypatch):
    log = tmp_path / "run" / "metrics.jsonl"
    with pytest.raises(Stopped):
        train(run.config, tmp_path / "run", stop=lambda: log.exists() and len(log.read_text().splitlines()) >= 11)
    monkeypatch.setattr(start, "fit_whitening", None)  # not called again
    assert train(run.config, tmp_path / "run")["test"] == run.summary["test"]
    assert same(saved(tmp_path / "run", run.config), saved(run.workdir, run.config))


def test_pixels_of_validation_and_test_images_do_not_enter(run, cell_folder, cache, tmp_path):
    folder = shutil.copytree(cell_folder, tmp_path / "cells")
    with open(run.workdir / "splits.csv", newline="") as file:
        splits = {row["id"]: row["split"] for row in csv.DictReader(file)}
    for id, split in splits.items():
        if split != "train":
            ImageOps.invert(Image.open(folder / id).convert("RGB")).save(folder / id)
    config = tiny(folder, cache, **OPTIONS, train__epochs=1)
    assert train(config, tmp_path / "run")["test"]["loss"] != run.summary["test"]["loss"]
    assert same(saved(tmp_path / "run", config)[0], saved(run.workdir, run.config)[0])
    # And that of training images does.
    image = next(id for id, split in splits.items() if split == "train")
    ImageOps.invert(Image.open(folder / image).convert("RGB")).save(folder / image)
    train(config, tmp_path / "other")
    assert not same(saved(tmp_path / "other", config)[0], saved(run.workdir, run.config)[0])


def test_another_epsilon_is_another_run(run, cell_folder, cache):
    with pytest.raises(UserError, match="image.zca_epsilon: 0.001 -> 0.01"):
        train(tiny(cell_folder, cache, **{**OPTIONS, "image__zca_epsilon": 0.01}), run.workdir)
