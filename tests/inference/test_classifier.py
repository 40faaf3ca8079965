"""A classifier from Python: files, PIL images and arrays in; probabilities, or a pure function of plain arrays."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from training_tools import Said, one_line

import cnnjax
from cnnjax import checkpoints
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.config import Preprocessing
from cnnjax.errors import DataError, UserError


@pytest.fixture(scope="module")
def cells(plain):
    return cnnjax.load(plain.workdir)


@pytest.fixture(scope="module")
def path(cell_folder):
    return sorted(cell_folder.rglob("*.png"))[0]


def test_a_file_an_image_and_an_array_of_the_same_pixels_agree(cells, path):
    image = Image.open(path)
    found = cells.predict([path, image, np.asarray(image.convert("RGB")), path.read_bytes()])
    assert [p.path for p in found] == [str(path), str(path), "", ""]
    assert cells.predict(path.read_bytes())[0].predicted == found[0].predicted
    for other in found[1:]:
        assert other.probabilities == pytest.approx(found[0].probabilities, abs=1e-5)
    assert cells.predict(np.asarray(image.convert("RGB")))[0].predicted == found[2].predicted
    assert found[0].to_dict()["predicted"] == found[0].predicted


def test_probabilities_are_by_the_contract_of_scikit_learn(cells):
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    p = cells.predict_proba(images)
    assert p.dtype == np.float64 and p.shape == (5, len(cells.classes))
    np.testing.assert_allclose(p.sum(1), 1)
    one = cells.predict(images[1])[0]
    np.testing.assert_allclose([one.probabilities[name] for name in cells.classes], p[1], atol=1e-5)
    assert cells.predict_proba(images[:0]).shape == (0, len(cells.classes))


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), [1]])
def test_wrong_arrays_are_one_line(cells, images):
    with pytest.raises(DataError, match=r"predict_proba takes an array uint8 \[n, height, width, 3\]"):
        cells.predict_proba(images)


def test_what_is_no_image_is_one_line(cells):
    with pytest.raises(DataError, match=r"not float32 \[8, 8, 3\]$"):
        cells.predict(np.zeros((8, 8, 3), np.float32))


def test_apply_is_a_pure_function_of_plain_arrays(cells):
    size = cells.preprocessing.size
    batch = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    logits = jax.jit(cells.apply)(cells.params, batch)
    assert logits.dtype == np.float32 and logits.shape[0] == 3
    z = np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else np.asarray(logits)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(p, cells.predict_proba(batch), atol=1e-5)
    floats = batch.astype(np.float32)
    slope = jax.grad(lambda x: cells.apply(cells.params, x).sum())(floats)
    assert slope.shape == floats.shape and np.isfinite(slope).all()
    each = jax.vmap(lambda x: cells.apply(cells.params, x[None])[0])(floats)
    np.testing.assert_allclose(each, logits, atol=1e-4)
    with pytest.raises(DataError, match=r"not in \[0, 510\]"):
        cells.apply(cells.params, np.clip(floats * 2 + 255, 0, 510) * (floats > 0))
    with pytest.raises(DataError, match=r"apply takes a batch"):
        cells.apply(cells.params, batch[0])


CHANGES = {
    "size": 20,
    "width": 20,
    "resize": "nearest",
    "range": (0.0, 9.0),
    "colour": "BGR",
    "scale": 0.001,
    "mean": (0.3, 0.2, 0.1),
    "deviation": (0.5, 0.5, 0.4),
    "zca": True,
    "library": "Other",
    "version": "0.1",
    "views": "mirrored",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Preprocessing)])
def test_each_field_of_a_checkpoints_preprocessing_is_read_in_evaluation_and_prediction(
    plain, path, tmp_path, monkeypatch, name
):
    """Not what the config says, which stays: a changed field changes the numbers, is refused, or warned of."""

    def outcome() -> tuple:
        said = Said()
        try:
            predict(plain.workdir, [str(path)], tmp_path / f"{len(list(tmp_path.iterdir()))}.csv", progress=said)
            predicted = cnnjax.load(plain.workdir).predict(path)[0].probabilities
            return predicted, evaluate(copy, "val", progress=said)["loss"], [line for line in said.lines if "pixels" in line]
        except UserError as error:
            return (one_line(SimpleNamespace(value=error)),)

    if name == "range":  # the run's own files have 8 bits
        path = tmp_path / "wide.png"
        Image.fromarray((np.arange(400).reshape(20, 20) * 160).astype(np.uint16)).save(path)
    copy = shutil.copytree(plain.workdir, tmp_path / "copy")
    before = outcome()
    real = checkpoints.Checkpoints.metadata

    def changed(self, step):
        metadata = real(self, step)
        assert metadata["preprocessing"][name] != CHANGES[name]
        return {**metadata, "preprocessing": {**metadata["preprocessing"], name: CHANGES[name]}}

    monkeypatch.setattr(checkpoints.Checkpoints, "metadata", changed)
    after = outcome()
    if len(after) == 1:
        assert name in ("size", "width", "colour", "zca"), after
    elif name in ("library", "version"):
        assert after[:2] == before[:2] and before[2] == []
        assert len(after[2]) == 2 and all(str(CHANGES[name]) in line for line in after[2])  # of predict and of evaluate
    else:
        assert after[0] != before[0] and (after[1] != before[1] or name == "range")
