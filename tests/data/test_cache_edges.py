"""The decoded cache and downloads when something goes wrong half way."""

import contextlib
import errno
import hashlib
import http.server
import os
import tarfile
import threading

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import cache, download, sources
from cnnjax.data.listings import DataReference, FileReference
from cnnjax.data.sources import Example, Source
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress


def build(path, directory, size=8, **options):
    config = config_lib.override(config_lib.default(), {"data.path": str(path), "image.size": size})
    return cache.build(sources.open_source(config.data, Progress()), config_lib.Preprocessing.of(config.image), directory, Progress(), **options)


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
        build(cell_folder, isolated_cache)
    assert len(str(error.value).splitlines()) == 1 and left_in(isolated_cache) == []
    monkeypatch.undo()
    assert build(cell_folder, isolated_cache).built


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_half_way_leaves_nothing_and_the_next_build_is_whole(cell_folder, isolated_cache, monkeypatch, workers):
    monkeypatch.setattr(cache, "ALONE", 10)
    monkeypatch.setattr(cache, "CHUNK", 8)
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        build(cell_folder, isolated_cache, workers=workers, stop=lambda: next(answers))
    assert left_in(isolated_cache) == []
    built = build(cell_folder, isolated_cache, workers=workers)
    assert built.built and (built.images.reshape(96, -1).max(1) > 0).all()


def test_decoded_rows_follow_the_examples_whatever_the_order_of_the_archive(cell_folder, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for file in sorted(cell_folder.rglob("*.png"), key=lambda file: hashlib.sha256(file.name.encode()).digest()):
            archive.add(file, file.relative_to(cell_folder))
    folder = build(cell_folder, tmp_path / "1")
    monkeypatch.setattr(cache, "ALONE", 10)
    packed = build(tmp_path / "x.tgz", tmp_path / "2", workers=2)
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
        assert [fact["reason"].partition(" (")[0] for fact in built.facts] == ["", "not an image", "cannot be read"]
        assert built.images[0].min() == 9 and built.images[1:].max() == 0
    assert not again.images.flags.writeable
    assert [{k: str(v) for k, v in fact.items()} for fact in first.facts] == again.facts


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


@pytest.mark.parametrize("digest", [DIGEST, ""])
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
