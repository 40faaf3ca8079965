"""Runs that earlier versions have written still evaluate, predict and continue.

`tests/fixtures/<format>` holds a finished run and one that was stopped in its second epoch, both on scikit-learn's digits.
After a change of the checkpoints' format, `python tests/checkpoints/test_compatibility.py` adds those of the new one; the old stay.
"""

import contextlib
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from training_tools import read_rows

import cnnjax
from cnnjax import checkpoints, config
from cnnjax.errors import Stopped
from cnnjax.runs import RunDirectory, write_json

FIXTURES = Path(__file__).parent.parent / "fixtures"
SETTINGS = {"name": "fixture", "data.source": "digits", "data.batch_size": 128, "image.size": 8, "model.channels": (2,),
            "model.dense": (4,), "model.norm": "batch", "train.epochs": 3, "train.ema_decay": 0.9, "augment.shift": 0.1,
            "optimizer.schedule": "plateau", "log.every": 1}  # fmt: skip
FORMATS = sorted(path.name for path in FIXTURES.iterdir()) if FIXTURES.exists() else []


def settings(**overrides):
    values = {**SETTINGS, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return config.finish(config.override(config.default(), values))


def test_there_is_a_fixture_of_the_format_that_is_written():
    assert f"format-{checkpoints.FORMAT}" in FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_finished_run_evaluates_to_its_numbers(name, cache, tmp_path):
    workdir = shutil.copytree(FIXTURES / name / "finished", tmp_path / "run")
    summary = json.loads((workdir / "summary.json").read_text())
    result = cnnjax.evaluate(workdir, "test", overrides={"data.cache_dir": str(cache)})
    assert result["images"] == summary["test"]["images"] and result["step"] == summary["best_step"]
    assert result["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-4)
    before = {row["id"]: row for row in read_rows(FIXTURES / name / "finished" / "eval" / "test.csv")}
    for row in read_rows(workdir / "eval" / "test.csv"):
        assert float(row["p_3"]) == pytest.approx(float(before[row["id"]]["p_3"]), abs=1e-4)
    assert cnnjax.write_report(workdir).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_stopped_run_continues_to_the_result_of_the_finished_one(name, cache, tmp_path):
    workdir = shutil.copytree(FIXTURES / name / "stopped", tmp_path / "run")
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        step = saved.latest()
        assert saved.seals.damage(step) == "" and 0 < step < 30
    summary = cnnjax.train(settings(data__cache_dir=str(cache)), workdir)
    finished = FIXTURES / name / "finished"
    expected = json.loads((finished / "summary.json").read_text())
    assert (summary["steps"], summary["epochs"]) == (expected["steps"], expected["epochs"])
    assert summary["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-2)
    history, before = RunDirectory(workdir).read_history(), RunDirectory(finished).read_history()
    assert [row["step"] for row in history] == [row["step"] for row in before]
    for column in ("loss", "val_loss", "raw_val_loss"):
        np.testing.assert_allclose([row[column] for row in history], [row[column] for row in before], rtol=1e-2)


def make(directory: Path) -> None:
    """Writes both runs."""
    train = importlib.import_module("cnnjax.commands.train").train
    train(settings(), directory / "finished")
    polls = iter(range(1000))
    with contextlib.suppress(Stopped):
        train(settings(), directory / "stopped", stop=lambda: next(polls) > 16)
    for run in ("finished", "stopped"):
        for name in (".lock", "report.html", "curves.png", "network.png", "checkpoints/descriptor"):
            path = directory / run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in (directory / run / "eval").glob("*"):  # but the table of the test images
            if path.name != "test.csv":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (directory / run).rglob("commit_success.txt"):
            path.write_text("Checkpoint commit was successful.\n")  # Orbax names the directory of this machine
        for seal in (directory / run / "checksums").glob("*.json"):
            seal.unlink()
        with checkpoints.Checkpoints(RunDirectory(directory / run), writable=True) as saved:
            saved.seals.write()
        summary = json.loads((directory / run / "summary.json").read_text())
        write_json(directory / run / "summary.json", {**summary, "platform": "", "revision": ""})


if __name__ == "__main__":
    make(FIXTURES / f"format-{checkpoints.FORMAT}")
    sys.exit(0)
