"""Downloads are verified, kept once, never half there, and quick to fail."""

import hashlib
import http.server
import threading
import time

import pytest

from cnnjax.data import download
from cnnjax.errors import DataError
from cnnjax.progress import Progress

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing.zip":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        # A transfer that breaks off sends half.
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/broken.zip" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_verified_and_kept(server, tmp_path):
    path = download.fetch(f"{server}/a.zip", DIGEST, tmp_path, Progress())
    assert path == tmp_path / "a.zip" and path.read_bytes() == CONTENT
    # Port 9 answers nobody: the second call must not ask.
    assert download.fetch("http://127.0.0.1:9/a.zip", DIGEST, tmp_path, Progress()) == path


def test_another_digest_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match="did not give the expected SHA-256") as error:
        download.fetch(f"{server}/a.zip", "0" * 64, tmp_path, Progress())
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_file_that_was_put_there_is_verified(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match="does not have the SHA-256"):
        download.fetch("http://127.0.0.1:9/a.zip", DIGEST, tmp_path, Progress())
    assert (tmp_path / "a.zip").read_bytes() == b"something else"


@pytest.mark.parametrize("name", ["broken.zip", "missing.zip"])
def test_a_failed_transfer_leaves_nothing(server, tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} .*--config.data.path=FILE"):
        download.fetch(f"{server}/{name}", DIGEST, tmp_path, Progress())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.zip", "http://no-such-host.invalid/a.zip"])
def test_without_a_network_it_fails_soon_and_says_how_to_go_on(tmp_path, url):
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        download.fetch(url, DIGEST, tmp_path, Progress())
    assert time.monotonic() - start < 15
    message = str(error.value)
    assert "\n" not in message and url in message and str(tmp_path / "a.zip") in message
    assert "configs/malaria.py:demo" in message and "--config.data.path=FILE" in message


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "REACH_SECONDS", 0.5)
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataError, match="cannot reach"):
            download.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip", DIGEST, tmp_path, Progress())
