"""Images are decoded once, in any number of processes, and never left half done, whatever goes wrong half way."""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import http.server
import multiprocessing
import os
import tarfile
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import cache, dataset, decoding, download, sources
from cnnjax.data.examples import Example, Source
from cnnjax.data.listings import DataReference, FileReference
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress


def settings(folder, directory, **overrides):
    values = {"data.path": folder, "data.cache_dir": directory, "image.size": 16, "data.group": r"^C\d+"}
    return config_lib.from_dict({}, {**values, **overrides})


def build(folder, directory, stop=lambda: False, **overrides):
    config = settings(folder, directory, **overrides)
    source = sources.open_source(config.data, Progress())
    return cache.build(
        source, config_lib.Preprocessing.of(config.image), directory, Progress(), workers=config.runtime.workers, stop=stop
    )


def build_in_child(folder, directory, barrier, results):
    barrier.wait()
    results.put(int(build(folder, directory).images.sum()))


def test_the_second_build_decodes_nothing(cell_folder, isolated_cache):
    first, second = build(cell_folder, isolated_cache), build(cell_folder, isolated_cache)
    assert first.built and not second.built
    assert first.images.shape == (96, 16, 16, 3) and np.array_equal(first.images, second.images)
    assert first.facts == second.facts and first.facts["format"][0] == "PNG"


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
    monkeypatch.setattr(decoding, "ALONE", 0)
    monkeypatch.setattr(decoding, "CHUNK", 7)
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
    (folder / "Parasitized" / "C2_words.png").write_bytes(b"\xd0\xcf\x11\xe0 not a picture")
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
    assert expected == [(2, 58)] and abs(len(data.splits["train"]) - 58) <= 3  # three of the pictures turned out to be none
    with open(tmp_path / "run" / "quarantine.csv", newline="") as file:
        listed = {row["id"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)}
    assert len(listed) == 3 and listed["C2_words.png"] == "not an image" and listed["C1_empty.png"] == "empty file"
    assert sum(reason.startswith("damaged") for reason in listed.values()) == 1
    assert sum(len(rows) for rows in data.splits.values()) == 79
    assert heard and heard[0].startswith("3 files left out")


def test_too_many_bad_files_are_refused(spoiled, tmp_path, isolated_cache):
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match=r"3 of 82 files cannot be used .*raise --config.data.max_bad_fraction"):
        dataset.prepare(settings(spoiled, isolated_cache), tmp_path / "run", Progress(), freeze=True)
    assert (tmp_path / "run" / "quarantine.csv").exists() and not (tmp_path / "run" / "splits.csv").exists()


def test_one_bad_file_of_a_small_set_is_left_out_and_refused_where_none_is_allowed(make_folder, tmp_path, isolated_cache):
    folder = make_folder(tmp_path / "small", per_class=10)
    (folder / "Uninfected" / "C1_empty.png").write_bytes(b"")
    (tmp_path / "run").mkdir()
    data = dataset.prepare(settings(folder, isolated_cache), tmp_path / "run", Progress(), freeze=False)
    assert [reason for _, reason in data.quarantine] == ["empty file"]
    with pytest.raises(DataError, match="1 of 21 files cannot be used"):
        config = settings(folder, isolated_cache, **{"data.max_bad_fraction": 0.0})
        dataset.prepare(config, tmp_path / "run", Progress(), freeze=False)


def build_plain(path, directory, size=8, **options):
    config = config_lib.override(config_lib.default(), {"data.path": str(path), "image.size": size})
    return cache.build(
        sources.open_source(config.data, Progress()),
        config_lib.Preprocessing.of(config.image),
        directory,
        Progress(),
        **options,
    )


def left_in(directory):
    return os.listdir(directory / "decoded")


class FailingFile:
    """A file whose disk becomes full after some writes."""

    def __init__(self, file, writes):
        self._file, self._left = file, writes

    def write(self, data):
        self._left -= 1
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("writes", [0, 1, 20, 96])
def test_disk_that_becomes_full_while_writing_is_one_line_and_leaves_nothing(
    cell_folder, isolated_cache, monkeypatch, writes
):
    def failing(*args, **kwargs):
        return FailingFile(open(*args, **kwargs), writes)

    monkeypatch.setattr(cache, "open", failing, raising=False)
    with pytest.raises(DataError, match="no space left") as error:
        build_plain(cell_folder, isolated_cache)
    assert len(str(error.value).splitlines()) == 1 and left_in(isolated_cache) == []
    monkeypatch.undo()
    assert build_plain(cell_folder, isolated_cache).built


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_half_way_leaves_nothing_and_the_next_build_is_whole(cell_folder, isolated_cache, monkeypatch, workers):
    monkeypatch.setattr(decoding, "ALONE", 10)
    monkeypatch.setattr(decoding, "CHUNK", 8)
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        build_plain(cell_folder, isolated_cache, workers=workers, stop=lambda: next(answers))
    assert left_in(isolated_cache) == []
    built = build_plain(cell_folder, isolated_cache, workers=workers)
    assert built.built and (built.images.reshape(96, -1).max(1) > 0).all()


def test_decoded_rows_follow_the_examples_whatever_the_order_of_the_archive(cell_folder, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for file in sorted(cell_folder.rglob("*.png"), key=lambda file: hashlib.sha256(file.name.encode()).digest()):
            archive.add(file, file.relative_to(cell_folder))
    folder = build_plain(cell_folder, tmp_path / "1")
    monkeypatch.setattr(decoding, "ALONE", 10)
    packed = build_plain(tmp_path / "x.tgz", tmp_path / "2", workers=2)
    assert np.array_equal(folder.images, packed.images) and folder.facts == packed.facts


def test_bad_rows_are_zeros_with_a_reason_and_facts_survive_the_file(tmp_path):
    references = [DataReference(np.full((4, 4), 9, np.uint8)), DataReference(b"x"), FileReference(str(tmp_path / "gone"))]
    source = Source(
        ("a", "b"), tuple(Example(f"a/{i}", 0, "", "") for i in range(3)), "f", lambda: iter(enumerate(references))
    )
    how = config_lib.Preprocessing(size=8, resize="bilinear")
    first = cache.build(source, how, tmp_path, Progress())
    again = cache.build(source, how, tmp_path, Progress())
    for built in (first, again):
        assert [reason.partition(" (")[0] for reason in built.facts["reason"]] == ["", "not an image", "cannot be read"]
        assert built.images[0].min() == 9 and built.images[1:].max() == 0
    assert not again.images.flags.writeable
    assert first.facts == again.facts and again.facts["width"][0] == "4"


def test_source_that_yields_fewer_than_it_lists_is_refused(tmp_path):
    source = Source(("a", "b"), tuple(Example(f"a/{i}", 0, "", "") for i in range(3)), "f",
                    lambda: iter([(0, DataReference(np.zeros((4, 4), np.uint8)))]))  # fmt: skip
    with pytest.raises(DataError, match="2 of 3 images vanished"):
        cache.build(source, config_lib.Preprocessing.of(config_lib.default().image), tmp_path, Progress())
    assert left_in(tmp_path) == []


CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Sends CONTENT; /short breaks off, /chunked does not tell its length. Yields (address, paths that were asked)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            if "chunked" not in self.path:
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000] if "short" in self.path else CONTENT)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.mark.parametrize("digest", [DIGEST, ""], ids=["digest", "none"])
def test_transfer_that_breaks_off_leaves_nothing_with_and_without_a_digest(server, tmp_path, digest):
    with pytest.raises(DataError) as error:
        download.fetch(f"{server[0]}/short.zip", digest, tmp_path, Progress())
    assert len(str(error.value).splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_download_of_unknown_length_is_whole(server, tmp_path):
    assert download.fetch(f"{server[0]}/chunked.zip", DIGEST, tmp_path, Progress()).read_bytes() == CONTENT


def test_progress_counts_the_megabytes_once(server, tmp_path):
    class Counting(Progress):
        done, totals = 0.0, ()

        @contextlib.contextmanager
        def task(self, name, total, unit):
            def advance(n, note="", total=None):
                self.done += n
                self.totals += (total,)

            yield advance

    progress = Counting()
    download.fetch(f"{server[0]}/x.zip", DIGEST, tmp_path, progress)
    assert progress.done == pytest.approx(0.3) and set(progress.totals) == {0.3}


def test_file_that_changed_after_it_was_verified_is_noticed_and_not_deleted(server, tmp_path):
    path = download.fetch(f"{server[0]}/x.zip", DIGEST, tmp_path, Progress())
    path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(path, ns=(1, 1))
    asked = len(server[1])
    with pytest.raises(DataError, match="delete it") as error:
        download.fetch(f"{server[0]}/x.zip", DIGEST, tmp_path, Progress())
    assert len(str(error.value).splitlines()) == 1 and path.exists() and len(server[1]) == asked


def test_two_downloads_at_once_both_succeed(server, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(download.fetch(f"{server[0]}/x.zip", DIGEST, tmp_path, Progress())))
               for _ in range(3)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3 and found[0].read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip", "x.zip.sha256"}


def test_directory_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        download.fetch(f"{server[0]}/x.zip", DIGEST, tmp_path / "file", Progress())
    assert len(str(error.value).splitlines()) == 1
