"""Images are decoded once, in any number of processes, and never left half done."""

import csv
import dataclasses
import errno
import multiprocessing
import os
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import cache, dataset, sources
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress


def settings(folder, directory, **overrides):
    values = {"data.path": folder, "data.cache_dir": directory, "image.size": 16, "data.group": r"^C\d+"}
    return config_lib.from_dict({}, {**values, **overrides})


def build(folder, directory, stop=lambda: False, **overrides):
    config = settings(folder, directory, **overrides)
    source = sources.open_source(config.data, Progress())
    return cache.build(source, config_lib.Preprocessing.of(config.image), directory, Progress(), workers=config.runtime.workers, stop=stop)


def build_in_child(folder, directory, barrier, results):
    barrier.wait()
    results.put(int(build(folder, directory).images.sum()))


def test_the_second_build_decodes_nothing(cell_folder, isolated_cache):
    first, second = build(cell_folder, isolated_cache), build(cell_folder, isolated_cache)
    assert first.built and not second.built
    assert first.images.shape == (96, 16, 16, 3) and np.array_equal(first.images, second.images)
    assert first.facts == second.facts and first.facts[0]["format"] == "PNG"


@pytest.mark.parametrize("overrides", [{"image.size": 24}, {"image.resize": "nearest"}])
def test_another_preprocessing_is_another_cache(cell_folder, isolated_cache, overrides):
    build(cell_folder, isolated_cache)
    assert build(cell_folder, isolated_cache, **overrides).built


@pytest.mark.parametrize("field", sorted(config_lib.Preprocessing(size=16, resize="pad").pixels))
def test_every_field_that_decides_the_pixels_is_in_the_key(field):
    source = SimpleNamespace(fingerprint="f")
    how = config_lib.Preprocessing(size=16, resize="pad")
    other = dataclasses.replace(how, **{field: 24 if field == "size" else "other"})
    assert cache.key(source, how) != cache.key(source, other)
    assert cache.key(source, how) == cache.key(source, dataclasses.replace(how, scale=1.0, zca=True))


def test_other_content_is_another_cache(make_folder, tmp_path, isolated_cache):
    folder = make_folder(tmp_path / "a", per_class=4)
    build(folder, isolated_cache)
    file = next(folder.rglob("*.png"))
    os.utime(file, ns=(1, 1))
    assert build(folder, isolated_cache).built


def test_worker_processes_give_what_one_process_gives(cell_folder, tmp_path, monkeypatch):
    alone = build(cell_folder, tmp_path / "alone")
    monkeypatch.setattr(cache, "ALONE", 0)
    monkeypatch.setattr(cache, "CHUNK", 7)
    together = build(cell_folder, tmp_path / "together", **{"runtime.workers": 2})
    assert np.array_equal(alone.images, together.images) and alone.facts == together.facts


def test_two_processes_may_build_the_same_cache_at_once(cell_folder, isolated_cache):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    children = [
        context.Process(target=build_in_child, args=(cell_folder, isolated_cache, barrier, results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    sums = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert sums[0] == sums[1] == int(build(cell_folder, isolated_cache).images.sum())
    assert len(os.listdir(isolated_cache / "decoded")) == 1


def test_a_stop_leaves_nothing(cell_folder, isolated_cache):
    with pytest.raises(Stopped):
        build(cell_folder, isolated_cache, stop=lambda: True)
    assert os.listdir(isolated_cache / "decoded") == []


def test_a_full_disk_is_one_line_and_leaves_nothing(cell_folder, isolated_cache, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="no space left for .* --config.data.cache_dir=DIR") as error:
        build(cell_folder, isolated_cache)
    assert "\n" not in str(error.value) and os.listdir(isolated_cache / "decoded") == []


def test_a_cache_directory_that_is_a_file_is_one_line(cell_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write decoded images"):
        build(cell_folder, tmp_path / "file")


@pytest.fixture
def spoiled(make_folder, tmp_path):
    folder = make_folder(tmp_path / "spoiled", per_class=40)
    (folder / "Parasitized" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 not a picture")
    (folder / "Uninfected" / "C1_empty.png").write_bytes(b"")
    whole = next((folder / "Uninfected").glob("C2P*.png"))
    whole.write_bytes(whole.read_bytes()[:-120])
    return folder


def test_bad_files_are_listed_counted_and_left_out(spoiled, tmp_path, isolated_cache):
    heard = []
    progress = Progress()
    progress.warn = heard.append
    config = settings(spoiled, isolated_cache, **{"data.max_bad_fraction": 0.1})
    (tmp_path / "run").mkdir()
    expected = []
    data = dataset.prepare(
        config, tmp_path / "run", progress, freeze=True, decoding=lambda *numbers: expected.append(numbers)
    )
    assert expected == [(2, 57)] and abs(len(data.splits["train"]) - 57) <= 2  # two of the pictures turned out to be none
    with open(tmp_path / "run" / "quarantine.csv", newline="") as file:
        listed = {row["id"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)}
    assert len(listed) == 3 and listed["Thumbs.db"] == "not an image" and listed["C1_empty.png"] == "empty file"
    assert sum(reason.startswith("damaged") for reason in listed.values()) == 1
    assert sum(len(rows) for rows in data.splits.values()) == 79
    assert heard and heard[0].startswith("3 files left out")


def test_too_many_bad_files_are_refused(spoiled, tmp_path, isolated_cache):
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match=r"3 of 82 files cannot be used .*raise --config.data.max_bad_fraction"):
        dataset.prepare(settings(spoiled, isolated_cache), tmp_path / "run", Progress(), freeze=True)
    assert (tmp_path / "run" / "quarantine.csv").exists() and not (tmp_path / "run" / "splits.csv").exists()
