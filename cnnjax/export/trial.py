"""A file that was written, tried in a fresh process: what another program will get from it."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnjax.errors import ConfigError

SCRIPT = Path(__file__).with_name("fresh.py")


class Trial:
    """A process that has loaded a file.

    Args:
        process: with pipes.
        classes: of a row of probabilities.
        said: what the process writes about errors.
    """

    def __init__(self, process: subprocess.Popen, classes: int, said):
        self._process, self.classes, self._said = process, classes, said
        self.seconds: list[float] = []  # of each call

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [n, classes] of uint8 [n, height, width, 3]. Raises ConfigError where the process has ended."""
        try:
            self._process.stdin.write(len(images).to_bytes(8, "little"))
            self._process.stdin.write(np.ascontiguousarray(images).data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        size = 4 * len(images) * self.classes
        answer = self._process.stdout.read(size + 8)
        if len(answer) < size + 8:
            raise self._failed()
        self.seconds.append(float(np.frombuffer(answer[size:], "<f8")[0]))
        return np.frombuffer(answer[:size], np.float32).reshape(len(images), self.classes)

    def _failed(self) -> ConfigError:
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), "no word")[:300]
        return ConfigError(
            f"the exported file cannot be used in a process of its own ({reason}); nothing was written: try another --format"
        )


@contextlib.contextmanager
def trial(path: Path, kind: str, shape: tuple[int, int], classes: int) -> Iterator[Trial]:
    """Loads a file in a fresh process that cannot import cnnjax.

    Args:
        path: of the file.
        kind: onnx, stablehlo or litert.
        shape: of an image, height and width.
        classes: how many.
    """
    told = {"format": kind, "path": str(path), "shape": [*shape, 3]}
    with tempfile.TemporaryFile() as said, subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
    ) as process:  # fmt: skip
        try:
            process.stdin.write(json.dumps(told).encode() + b"\n")
            yield Trial(process, classes, said)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.kill()
