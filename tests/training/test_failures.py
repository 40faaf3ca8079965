"""Runs that fail, each in one line that says how to go on."""

import shutil
from types import SimpleNamespace

import pytest
from stop_requests import after_lines
from training_tools import Said, on_devices, one_line

import cnnjax
from cnnjax import checkpoints
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.train import train
from cnnjax.errors import CheckpointError, ConfigError, DataError, Stopped, TrainingError
from cnnjax.runs import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")  # but for the runs that several tests share


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(make, tmp_path, batch_size):
    config = make(optimizer__name="sgd", optimizer__learning_rate=1e30, data__batch_size=batch_size)
    with pytest.raises(TrainingError, match="loss is (nan|inf|not a number).*learning_rate") as error:
        train(config, tmp_path / "run")
    one_line(error)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused_with_one_that_they_can():
    code = """
import json
from cnnjax import runtime
from cnnjax.errors import ConfigError
try:
    runtime.mesh(divides=60)
except ConfigError as error:
    print(json.dumps({"error": str(error), "fits": runtime.mesh(divides=64).size, "six": runtime.mesh(6, divides=60).size}))
"""
    result = on_devices(8, code)
    assert result["error"].startswith("data.batch_size=60 does not divide among 8 devices")
    assert result["error"].endswith("use --config.runtime.devices=6, with which a run that has begun goes on, or "
                                    "--config.data.batch_size=64 for a new run")  # fmt: skip
    assert (result["fits"], result["six"]) == (8, 6)


def test_more_devices_than_there_are_is_one_line(make, tmp_path):
    with pytest.raises(ConfigError, match="runtime.devices=64, but there are 1; use --config.runtime.devices=0") as error:
        train(make(runtime__devices=64), tmp_path / "run")
    one_line(error)


def test_images_that_are_too_small_are_one_line(make, tmp_path):
    with pytest.raises(DataError, match="16 pixels are too small.*--config.image.size") as error:
        train(make(model__channels=(2,) * 6), tmp_path / "run")
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_not_there_is_refused_before_anything_is_said(make, tmp_path):
    said = Said()
    with pytest.raises(DataError, match="no such folder or archive: .*none; name one with --config.data.path"):
        train(make(data__path=str(tmp_path / "none")), tmp_path / "run", progress=said)
    assert not said.lines and not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", [".", "run", "Parasitized/run"])
def test_a_run_directory_within_the_images_is_refused(make, cell_folder, below):
    before = sorted(cell_folder.rglob("*"))
    for action in (train, cnnjax.explore, cnnjax.describe):
        with pytest.raises(ConfigError, match=r"is in the folder of the images.*--workdir=\S+cells-run") as error:
            action(make(), cell_folder / below)
        one_line(error)
    assert sorted(cell_folder.rglob("*")) == before


def test_a_disk_without_room_for_a_checkpoint_is_one_line_before_the_first_step(make, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(CheckpointError, match=r"no space left .* are 0\.0; make room, .* from the beginning") as error:
        train(make(), tmp_path / "run")
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_names_the_step_from_which_the_run_continues(plain):
    with checkpoints.Checkpoints(RunDirectory(plain.workdir)) as kept:
        message = rf"make room, .* continues from step {kept.latest()}$"
        with pytest.raises(CheckpointError, match=message), kept._readable_errors():
            raise OSError("No space left on device")


def test_a_changed_split_is_not_continued(make, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(Stopped):
        train(make(), workdir, stop=after_lines(workdir, 3))
    rows = (workdir / "splits.csv").read_text().splitlines(keepends=True)
    moved = next(row for row in rows if row.endswith(",train\n")).split(",")[2]
    (workdir / "splits.csv").write_text("".join(
        row.replace(",train\n", ",val\n") if row.split(",")[2] == moved else row for row in rows))  # fmt: skip
    with pytest.raises(DataError, match="splits.csv is not the split of the checkpoint at step 4") as error:
        train(make(), workdir)
    one_line(error)


def damage_metadata(checkpoint):
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{")


def damage_arrays(checkpoint):
    for path in (checkpoint / "model").rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(b"\0" * (path.stat().st_size // 2))


def damage_model_missing(checkpoint):
    shutil.rmtree(checkpoint / "model")


@pytest.fixture(scope="module")
def cut_off(make, tmp_path_factory):
    """Config and directory of a run that was stopped in its third epoch of four."""
    workdir, config = tmp_path_factory.mktemp("cut-off") / "run", make(train__epochs=4)
    with pytest.raises(Stopped):
        train(config, workdir, stop=after_lines(workdir, 20))
    return config, workdir


@pytest.mark.slow
@pytest.mark.parametrize("damage", [damage_metadata, damage_arrays, damage_model_missing])
def test_a_damaged_checkpoint_is_one_line_and_an_earlier_one_works(cut_off, tmp_path, damage):
    config, workdir = cut_off[0], shutil.copytree(cut_off[1], tmp_path / "run")
    damage(workdir / "checkpoints" / "19")
    with pytest.raises(
        CheckpointError, match="checkpoint 19 in .* is damaged .*; evaluate or predict with --step=16"
    ) as error:
        evaluate(workdir, "test", 19)
    one_line(error)
    assert evaluate(workdir, "test", 16)["step"] == 16
    said = Said()
    assert train(config, workdir, progress=said)["steps"] == 32
    assert sum("checkpoint 19" in line and "damaged" in line and "it was moved to" in line for line in said.lines) == 1
    assert "continuing from step 16" in said.lines
    assert [path.name.split("-")[0] for path in (workdir / "damaged").iterdir()] == ["19"]


@pytest.mark.parametrize("step", [7, "7", "newest"])
def test_a_checkpoint_that_is_not_there_is_one_line_with_those_that_are(plain, step):
    with pytest.raises(CheckpointError, match="use --step=best or --step=latest or .*--step=24") as error:
        evaluate(plain.workdir, "test", step)
    one_line(error)


def test_a_directory_without_a_run_is_one_line(tmp_path):
    for action in (evaluate, cnnjax.load):
        with pytest.raises(CheckpointError, match="no checkpoints in .*train first") as error:
            action(tmp_path)
        one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_run_before_its_first_checkpoint_is_one_line_that_names_none(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for action in (evaluate, cnnjax.load):
        for step in ("best", "latest", 0):
            with pytest.raises(CheckpointError, match="no checkpoint in .* yet; .* after an epoch .* train on") as error:
                action(tmp_path, step=step)
            one_line(error)


def test_a_split_without_images_is_named_with_those_that_have_some(make, tmp_path):
    config = make(split__method="tutorial", split__train=0.8, split__val=0.2, split__test=0.0, train__epochs=1)
    summary = train(config, tmp_path / "run")
    assert summary["test"] is None and summary["val"]["images"] > 0
    with pytest.raises(DataError, match="no test split.*use --split=one of train, val") as error:
        evaluate(tmp_path / "run", "test")
    one_line(error)
    with pytest.raises(DataError, match="no split 'tset'; use one of train, val, test"):
        evaluate(tmp_path / "run", "tset")


def test_a_positive_class_that_is_none_leaves_the_directory_free(make, tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("runs/new/run", "there"):
        with pytest.raises(DataError, match=r"data.positive='ill' is not a class; use one of Parasitized, Uninfected"):
            train(make(data__positive="ill"), tmp_path / name)
    with pytest.raises(DataError, match="no such folder"):
        cnnjax.explore(make(data__path=str(tmp_path / "none")), tmp_path / "explored")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not (tmp_path / "there" / "config.json").exists()
