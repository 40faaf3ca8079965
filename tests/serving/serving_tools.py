"""Servers for tests: with a network that needs no JAX, in a thread of the test's process; and clients."""

import contextlib
import http.client
import io
import json
import socket
import threading
import time

import numpy as np
from PIL import Image

from cnnjax.config import Preprocessing
from cnnjax.serving import Card, Limits, Served, Service, Tokens

CLASSES = ("dark", 'bright <b>&"')


def bright(version: str = "1", **fields) -> Served:
    """A network that calls an image bright by the mean of its pixels; an image whose first pixel is 1, 2, 3 makes it fail."""

    def answers(inputs):
        if (inputs[0][:, 0, 0] == (1, 2, 3)).all(1).any():
            raise MemoryError("no memory\nfor this")
        p = inputs[0].reshape(len(inputs[0]), -1).mean(1) / 255
        return np.stack([1 - p, p], 1), (p >= 0.5).astype(int), [float(9 * (q > 0.99)) for q in p]

    def seen(file, label):
        return png(3)

    given = dict(name="bright", version=version, classes=CLASSES, positive=1, threshold=0.5, tells_unlike=True, seen=seen, answers=answers,
                 ways=(Preprocessing(size=8, resize="nearest"),), card=Card(("It is right.",), ("Not <i>always</i>.",)))  # fmt: skip
    return Served(**{**given, **fields})


def png(level: int | tuple = 200, size: int = 12) -> bytes:
    """A file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), level if isinstance(level, tuple) else (level,) * 3).save(file, "png")
    return file.getvalue()


@contextlib.contextmanager
def serving(load=bright, token: str = "", latency: float = 0.0, origins=(), **limits):
    """A server in a thread, ready; ended as by SIGTERM."""
    tokens = lambda: Tokens((token,) if token else ())  # noqa: E731
    service = Service(load, port=0, limits=Limits(**limits), tokens=tokens, latency=latency, origins=origins)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    until(lambda: service.state.is_ready)
    try:
        yield service
    finally:
        service.stop()
        thread.join(20)
        assert not thread.is_alive()


def until(true, seconds: float = 20) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.01)


def port_of(service: Service) -> int:
    return int(service.address.rpartition(":")[2])


def ask(service: Service, path: str, body: bytes | None = None, method: str = "", **headers: str) -> tuple[int, dict, bytes]:
    """Returns status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(service), timeout=20)
    try:
        connection.request(
            method or ("GET" if body is None else "POST"),
            path,
            body,
            {key.replace("_", "-"): value for key, value in headers.items()},
        )
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def told(service: Service, path: str, body: bytes | dict | None = None, **headers: str) -> tuple[int, dict]:
    """Returns status and JSON of an answer; a mapping is sent as JSON."""
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), {"content_type": "application/json", **headers}
    status, _, answer = ask(service, path, body, **headers)
    return status, json.loads(answer)


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Body and content type of a form with files."""
    parts = [b"--xyz\r\ncontent-disposition: form-data; name=\"images\"; filename=\"%b\"\r\ncontent-type: image/png\r\n\r\n%b\r\n"
             % (name.encode(), data) for name, data in files]  # fmt: skip
    return b"".join(parts) + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


def line(service: Service, data: bytes, wait: float = 10) -> bytes:
    """Sends bytes as they are; returns all that comes until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=wait) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                found += part
        return found
