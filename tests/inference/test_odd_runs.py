"""Runs with pipes and folders in place of files, or values that no run writes: one line, soon, and in little memory."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import tensorstore

from cnnjax import checkpoints, inference
from cnnjax.checkpoints import seals
from cnnjax.commands.report import write_report
from cnnjax.errors import CheckpointError, ConfigError, UserError
from cnnjax.inference import thumbnails
from cnnjax.runs import RunDirectory

FILES = [
    "config.json",
    "summary.json",
    "network.json",
    "history.csv",
    "splits.csv",
    "quarantine.csv",
    "eval/test.json",
    "eval/test.csv",
]


@pytest.fixture
def run(plain, tmp_path):
    """A copy of a finished run without the checksums of its small files."""
    copied = Path(shutil.copytree(plain.workdir, tmp_path / "run"))
    for seal in copied.glob("checksums/*.sha256"):
        seal.unlink()
    return copied


@pytest.fixture
def own(plain, monkeypatch, tmp_path):
    """Settings of this user; what takes longer than half a minute is ended."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(30)
    yield {"data.cache_dir": plain.config.data.cache_dir}
    signal.alarm(0)


def refused(act, *arguments) -> str:
    """The one line that a call is refused with; of a config a line for each problem."""
    with pytest.raises(UserError) as error:
        act(*arguments)
    assert isinstance(error.value, ConfigError) or "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_one_line(run, own, name, kind):
    (run / name).unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(run / name)
    assert name.rpartition("/")[2] in refused(write_report, run)


def test_a_pipe_in_place_of_a_checksum_or_of_scores_is_not_waited_for(run, own):
    step = inference.restore(run, overrides=own).step
    for name in (f"checksums/{step}.json", f"checkpoints/{step}/metrics/metrics"):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        try:
            inference.restore(run, overrides=own)
        except UserError as error:
            assert "\n" not in str(error)
        (run / name).unlink()
        (run / name).write_bytes(kept)


def test_a_small_file_of_many_megabytes_is_not_read(run, own):
    with open(run / "summary.json", "ab") as file:
        file.truncate(2**33)
    assert "bytes, more than" in refused(write_report, run)


ODD = [
    lambda tree: tree.update(name={"x": 1}),
    lambda tree: tree["split"].update(train=10**400),
    lambda tree: tree["model"].update(channels="[" + "-" * 3000 + "1]"),
    lambda tree: tree["model"].update(name="\0.py:X"),
    lambda tree: tree["data"].update(batch_size=10**12),
]


@pytest.mark.parametrize("change", ODD)
def test_odd_values_of_a_config_are_one_line(run, own, change):
    tree = json.loads((run / "config.json").read_text())
    change(tree)
    (run / "config.json").write_text(json.dumps(tree))
    try:
        write_report(run)
    except UserError as error:
        assert "\n" not in str(error)
    for path in run.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        facts = json.loads(path.read_text())
        change(facts["custom_metadata"]["config"])
        path.write_text(json.dumps(facts))
    shutil.rmtree(run / "checksums")
    refused(lambda: inference.restore(run, overrides=own))


def test_names_that_are_no_text_are_one_line(run, own):
    tree = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**tree, "classes": ["\ud800x", "b"]}))
    assert "is not a text" in refused(write_report, run)


def test_a_step_in_other_digits_is_not_a_checkpoint(run, own):
    (run / "checkpoints" / "²").mkdir()
    (run / "checksums" / "²").with_suffix(".json").write_text("{}")
    assert inference.restore(run, overrides=own).step > 0


def test_parts_that_are_larger_than_their_array_are_refused(run, own):
    step = inference.restore(run, overrides=own).step
    model = run / "checkpoints" / str(step) / "model"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{model}/"}}).result()
    name = next(name for name in store.list().result() if name.endswith(b"zarr.json"))
    tree = json.loads(store.read(name).result().value)
    tree["chunk_grid"]["configuration"]["chunk_shape"] = [2**27] * len(tree["shape"])
    store.write(name, json.dumps(tree).encode()).result()
    shutil.rmtree(run / "checksums")
    assert "are larger than the whole" in refused(lambda: inference.restore(run, overrides=own))


def test_a_stale_checksum_of_a_worse_checkpoint_decides_nothing_and_of_a_better_one_is_an_error(run, own):
    best = inference.restore(run, overrides=own).step
    seal = json.loads((run / "checksums" / f"{best}.json").read_text())
    (run / "checksums" / "8.json").write_text(json.dumps({**seal, "score": seal["score"] + 1}))
    assert inference.restore(run, overrides=own).step == best
    (run / "checksums" / "8.json").write_text(json.dumps({**seal, "score": seal["score"] - 1}))
    assert "it is gone" in refused(lambda: inference.restore(run, overrides=own))


def test_files_that_vanish_while_they_are_compared_are_missing(run, monkeypatch):
    with checkpoints.Checkpoints(RunDirectory(run)) as there:
        step = there.best()
        before = seals._below(run / "checkpoints" / str(step))
        monkeypatch.setattr(seals, "_below", lambda directory: before)
        shutil.rmtree(run / "checkpoints" / str(step) / "model")
        assert "is gone" in there.seals.damage(step)


def test_a_folder_of_thumbnails_that_cannot_be_removed_is_not_written_to(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "test-images").mkdir()
    monkeypatch.setattr(thumbnails.shutil, "rmtree", fail)
    with pytest.raises(CheckpointError, match="cannot replace .*test-images"):
        thumbnails.remove(tmp_path / "test-images")
