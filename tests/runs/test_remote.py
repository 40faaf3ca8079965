"""Data and run directories at addresses, with fsspec's file system in memory as the far side."""

import importlib
import json

import fsspec
import pytest
from training_tools import child, tiny

import cnnjax
from cnnjax.errors import ConfigError, DataError, Stopped
from cnnjax.progress import Progress
from cnnjax.runs import remote

train = importlib.import_module("cnnjax.commands.train").train


@pytest.fixture
def far():
    """An empty file system in memory."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.mark.parametrize("path", ["gs://b/x.zip", "s3://b/run", "memory://run", "https+x://y"])
def test_addresses_are_told_from_paths(path):
    assert remote.is_remote(path)
    assert not any(map(remote.is_remote, ("/a/b", "a/b", "C:\\x", "~/x", "", "x://"[:1])))


def test_a_folder_is_fetched_once_and_again_when_it_changes(far, tmp_path):
    far.pipe({"/photos/cat/1.png": b"1", "/photos/dog/2.png": b"22"})
    first = remote.fetch("memory://photos", tmp_path, Progress())
    assert sorted(p.relative_to(first).as_posix() for p in first.rglob("*.png")) == ["cat/1.png", "dog/2.png"]
    (first / "cat" / "1.png").write_bytes(b"x")
    assert remote.fetch("memory://photos", tmp_path, Progress()) == first and (first / "cat" / "1.png").read_bytes() == b"x"
    far.pipe({"/photos/dog/3.png": b"333"})
    again = remote.fetch("memory://photos", tmp_path, Progress())
    assert (again / "cat" / "1.png").read_bytes() == b"1" and (again / "dog" / "3.png").exists()


def test_training_reads_an_archive_at_an_address(far, cell_folder, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "cells"), "zip", cell_folder)
    far.put_file(archive, "/bucket/cells.zip")
    config = tiny("memory://bucket/cells.zip", tmp_path / "cache", train__epochs=1)
    summary = train(config, tmp_path / "run")
    assert summary["train"]["images"] + summary["val"]["images"] + summary["test"]["images"] == 96


@pytest.mark.parametrize(
    "url, line",
    [("nowhere://x/y", "nowhere://x/y: .*addresses begin with gs://, s3://"), ("s3://b/x", r"pip install 'cnnjax\[s3\]'"),
     ("memory://nothing", "nothing at memory://nothing")],
)  # fmt: skip
def test_addresses_that_lead_nowhere_are_one_line(far, tmp_path, url, line):
    if url.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises((ConfigError, DataError), match=line) as error:
        remote.fetch(url, tmp_path, Progress())
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_goes_on_from_its_address_on_another_machine(far, make_folder, tmp_path):
    folder = make_folder(tmp_path / "cells", per_class=24)

    def run(machine, stop_after=None):
        mirror = remote.Mirror("memory://bucket/run", tmp_path / machine)
        mirror.pull()
        polls = iter(range(10_000))
        config = tiny(folder, tmp_path / "cache", train__checkpoint_every="3 steps")
        try:
            return train(
                config, mirror.local, stop=lambda: stop_after is not None and next(polls) > stop_after, saved=mirror.push
            )
        finally:
            mirror.push()

    with pytest.raises(Stopped):
        run("one", stop_after=6)
    names = {name for name in far.find("/bucket/run")}
    assert "/bucket/run/config.json" in names and any("/checkpoints/" in name for name in names)
    assert not any("tmp" in name or name.endswith(".lock") for name in names)
    summary = run("two")
    undisturbed = train(tiny(folder, tmp_path / "cache", train__checkpoint_every="3 steps"), tmp_path / "undisturbed")
    assert [summary[k] for k in ("best_step", "steps", "train", "val", "test")] == [
        undisturbed[k] for k in ("best_step", "steps", "train", "val", "test")]  # fmt: skip
    mirror = remote.Mirror("memory://bucket/run", tmp_path / "three")
    mirror.pull()
    assert cnnjax.load(mirror.local).step == summary["best_step"]
    assert json.loads((mirror.local / "summary.json").read_text()) == summary
    kept = {path.name for path in (mirror.local / "checkpoints").iterdir()}
    assert kept == {path.name for path in (tmp_path / "two" / "remote").glob("*/checkpoints/*")}


def test_a_checkpoint_that_was_cut_off_on_its_way_is_left_out(far, tmp_path):
    far.pipe({"/r/config.json": b"{}", "/r/checkpoints/1/a": b"1", "/r/checksums/1.json": b"{}", "/r/checkpoints/2/a": b"2"})
    mirror = remote.Mirror("memory://r", tmp_path)
    mirror.pull()
    assert [path.name for path in (mirror.local / "checkpoints").iterdir()] == ["1"]


def test_a_newer_local_copy_is_kept_and_pushed(far, tmp_path):
    far.pipe({"/r/checkpoints/1/a": b"1", "/r/checksums/1.json": b"{}"})
    mirror = remote.Mirror("memory://r", tmp_path)
    for name in ("checkpoints/2/a", "checksums/2.json"):
        (mirror.local / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.local / name).write_text("2")
    mirror.pull()
    mirror.push()
    assert sorted(far.find("/r")) == ["/r/checkpoints/2/a", "/r/checksums/2.json"]


@pytest.mark.slow
def test_the_command_line_takes_an_address_as_workdir(tmp_path):
    """Uses `file://`, the one protocol of fsspec's own that processes share."""
    far = tmp_path / "far" / "run"
    cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
    arguments = ["--config=configs/malaria.py:demo", "--config.data.demo_cells=60", "--config.train.epochs=1", cache,
                 "--config.image.size=16", f"--workdir=file://{far}"]  # fmt: skip
    done = child(["launch.py", *arguments])
    assert done.returncode == 0, done.stderr
    assert (far / "report.html").exists() and f"--mode=eval --workdir=file://{far}" in done.stdout
    done = child(["launch.py", "--mode=eval", f"--workdir=file://{far}", cache, "--split=val"])
    assert done.returncode == 0, done.stderr
    assert (far / "eval" / "val.json").exists()
    done = child(["launch.py", *arguments, "--coordinator=localhost:1", "--num_processes=2", "--process_id=0"])
    assert done.returncode == 2 and "mount the bucket" in done.stderr
