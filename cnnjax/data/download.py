"""Fetching an archive once: verified, cached, never half there, and quick to say when there is no network."""

import concurrent.futures
import os
import threading
from pathlib import Path

from cnnjax.errors import DataError
from cnnjax.inside import inside, leaves, sha256
from cnnjax.progress import Progress

REACH_SECONDS = 10.0  # to get a first answer; a name server that does not answer can hang for far longer


def place(url: str, directory: Path) -> Path:
    """Returns where the local copy of `url` is, or will be, under its own name. Raises DataError for an address without a name."""
    name = url.rpartition("/")[2]
    if leaves(name):
        raise DataError(f"data.url={url} ends in no name of a file; name an archive, such as https://host/cells.zip")
    return inside(directory, name)


def fetch(url: str, digest: str, directory: Path, progress: Progress) -> Path:
    """Returns the local copy of `url` in `directory`, downloading it when it is not there yet.

    Args:
        url: http(s) address of an archive.
        digest: its SHA-256; "" accepts whatever comes.
        directory: where it is kept under its own name.
        progress: gets a bar in MB.

    Raises:
        DataError: no network, a failed transfer, or a file with another digest.
    """
    import pooch

    path = place(url, directory)
    offline = (
        f"put the file at {path}, or name a copy with --config.data.path=FILE; "
        "without a network, --config=configs/malaria.py:demo and configs/digits.py run"
    )
    if path.exists():
        # A verified download is marked, so that a large archive is not read whole at every start.
        marker = path.with_name(path.name + ".sha256")
        if digest and not (marker.exists() and marker.read_text() == _mark(path, digest)):
            if sha256(path) != digest:
                raise DataError(f"{path} does not have the SHA-256 of {url}; delete it, and the next run downloads it anew")
            marker.write_text(_mark(path, digest))
        return path
    _reach(url, offline)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with progress.task(f"download {path.name}", 1, "MB") as advance:
            downloader = pooch.HTTPDownloader(progressbar=_Bar(advance), chunk_size=1 << 18, timeout=(5, 60))
            pooch.get_logger().setLevel("ERROR")
            pooch.retrieve(url, f"sha256:{digest}" if digest else None, path.name, directory, downloader=downloader)
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise DataError(f"{url} did not give the expected SHA-256 {digest}, nothing was kept; {offline}") from None
    except OSError as error:  # requests' errors are OSErrors too
        raise DataError(f"cannot download {url} ({type(error).__name__}: {error}); {offline}") from None
    return fetch(url, digest, directory, progress)


def _mark(path: Path, digest: str) -> str:
    stat = os.stat(path)
    return f"{digest} {stat.st_size} {stat.st_mtime_ns}"


def _reach(url: str, offline: str) -> None:
    import requests

    outcome: concurrent.futures.Future = concurrent.futures.Future()

    def ask():
        try:
            with requests.get(url, timeout=REACH_SECONDS / 2, stream=True) as response:
                response.raise_for_status()
            outcome.set_result(None)
        except Exception as error:  # handed to the caller
            outcome.set_exception(error)

    # A daemon thread: a look-up that hangs must not hold the process.
    threading.Thread(target=ask, daemon=True).start()
    try:
        outcome.result(REACH_SECONDS)
    except (requests.RequestException, OSError, TimeoutError) as error:
        reason = str(error).partition(":")[0] if isinstance(error, requests.HTTPError) else type(error).__name__
        raise DataError(f"cannot reach {url} ({reason}); {offline}") from None


class _Bar:
    """A progress bar as pooch wants it; passes megabytes on."""

    def __init__(self, advance):
        self._advance = advance
        self._done = self.total = 0

    def update(self, count):
        # pooch counts whole chunks, and at the end everything once more.
        count = min(count, self.total - self._done) if self.total else count
        self._done += count
        self._advance(count / 1e6, total=self.total / 1e6)

    def reset(self):
        pass

    def close(self):
        pass
