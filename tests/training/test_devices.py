"""Runs on several devices: trained on eight, evaluated on any number, and taken over by another number."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from training_tools import losses, on_devices, read_rows

import cnnjax

TRAIN = """
import json, sys
from pathlib import Path
from training_tools import tiny
import cnnjax
folder, cache, workdir, *rest = map(Path, sys.argv[1:])
options = dict(model__norm="batch", augment__rotation=20.0, model__dropout_dense=0.3, train__epochs=2, data__batch_size=16)
try:
    path = workdir / "metrics.jsonl"
    stop = lambda: bool(rest) and path.exists() and len(path.read_text().splitlines()) >= int(str(rest[0]))
    print(json.dumps(cnnjax.train(tiny(folder, cache, **options), workdir, stop=stop).to_dict()))
except cnnjax.Stopped as stopped:
    print(json.dumps(str(stopped)))
"""
EVALUATE = """
import json, sys, jax
import cnnjax
from cnnjax import inference
workdir = sys.argv[1]
on = inference.restore(workdir).engine.mesh.size
print(json.dumps({"on": on, **{split: cnnjax.evaluate(workdir, split).to_dict() for split in ("train", "val", "test")}}))
"""


@pytest.fixture(scope="module")
def on_eight(cell_folder, cache, tmp_path_factory):
    """A run that was trained on 8 devices, evaluated there."""
    workdir = tmp_path_factory.mktemp("eight") / "run"
    return SimpleNamespace(workdir=workdir, summary=on_devices(8, TRAIN, cell_folder, cache, workdir))


def agree(result, expected):
    """Equal to float tolerance: counts exactly, numbers to 1e-5."""
    for split in ("train", "val", "test"):
        for key, value in expected[split].items():
            assert result[split][key] == pytest.approx(value, rel=1e-5, abs=1e-6), (split, key)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])  # and on eight at the end of training
def test_a_checkpoint_of_eight_devices_evaluates_on_any_number(on_eight, devices):
    splits = ("train", "val", "test")
    if devices > 1:
        result = on_devices(devices, EVALUATE, on_eight.workdir)
        assert result["on"] == devices
    else:
        result = {split: cnnjax.evaluate(on_eight.workdir, split) for split in splits}
    agree(result, on_eight.summary)
    for split in splits:
        ids = [row["id"] for row in read_rows(on_eight.workdir / "eval" / f"{split}.csv")]
        assert len(set(ids)) == len(ids) == result[split]["images"] == np.sum(result[split]["confusion"])


@pytest.mark.slow
def test_one_and_eight_devices_train_alike_and_take_over_from_each_other(on_eight, cell_folder, cache, tmp_path):
    one = on_devices(1, TRAIN, cell_folder, cache, tmp_path / "one")
    for split in ("train", "val", "test"):
        assert one[split]["loss"] == pytest.approx(on_eight.summary[split]["loss"], rel=1e-3)
    expected = np.array(losses(on_eight.workdir), float)
    np.testing.assert_allclose(np.array(losses(tmp_path / "one"), float), expected, rtol=1e-3)
    assert "stopped at step 6" in on_devices(8, TRAIN, cell_folder, cache, tmp_path / "both", 6)
    on_devices(2, TRAIN, cell_folder, cache, tmp_path / "both")
    np.testing.assert_allclose(np.array(losses(tmp_path / "both"), float), expected, rtol=1e-3)


@pytest.mark.slow
def test_a_run_of_one_device_evaluates_on_eight(plain, tmp_path):
    copy = shutil.copytree(plain.workdir, tmp_path / "copy")  # its numbers, of other last digits, are written there
    result = on_devices(8, EVALUATE, copy)
    assert result["on"] == 8
    agree(result, plain.summary)
