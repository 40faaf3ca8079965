"""Checksums of a run's own files: written with each file, compared before one is read.

A file `checksums/history.csv.sha256` is as `sha256sum` writes it. While a file is replaced it has two lines, of the old and of the
new content, so that a crash in between leaves a file that fits. A third column says that only so many bytes at the beginning are
meant, of a file that grows.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnjax.errors import CheckpointError
from cnnjax.inside import inside, read_small
from cnnjax.runs.files import replacing, write_text

_LINE = re.compile(r"([0-9a-f]{64})  (.+?)(?:  (\d{1,18}) bytes)?")


class SealedFiles:
    """Files of a directory with their checksums.

    Args:
        root: the directory.
        folder: name of the folder in it that holds the checksums.
    """

    def __init__(self, root: Path, folder: str):
        self._root, self._folder = root, folder

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Replaces a file whole or not at all, as `files.replacing`, and its checksum. Two processes that do so follow each other."""
        with contextlib.ExitStack() as held:

            def before(temporary: Path) -> None:
                held.enter_context(self._locked())
                self._write(path, [*self._lines(path), self._line(path, temporary)])

            try:
                with replacing(path, before) as temporary:
                    yield temporary
            except (IsADirectoryError, NotADirectoryError):
                raise CheckpointError(f"{path} is not a file, or its folder is none; remove it") from None
            self.seal(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = inside(self._root, self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(opened, fcntl.LOCK_EX)
            yield
        finally:
            os.close(opened)

    def seal(self, path: Path) -> None:
        """Takes a file as it is."""
        self._write(path, [self._line(path, path)])

    def seal_beginning(self, path: Path, digest: str, size: int) -> None:
        """Takes the first `size` bytes of a file, whose SHA-256 is known, as they are."""
        self._write(path, [f"{digest}  {self._name(path)}  {size} bytes"])

    def check(self, path: Path) -> None:
        """Raises CheckpointError where a file is not as it was written, or is gone. A file without a checksum is not judged."""
        lines = self._lines(path)
        if not lines:
            return
        place = self._place(path)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; restore it, or go on without it by removing {place}")
        if not any(fits(line, path) for line in lines):
            raise CheckpointError(f"{path} is not as it was written; restore it, or take it as it is by removing {place}")

    def forget(self, path: Path) -> None:
        """Removes the checksum of a file."""
        self._place(path).unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _place(self, path: Path) -> Path:
        return inside(self._root, f"{self._folder}/{seal_name(self._name(path))}")

    def _line(self, path: Path, content: Path) -> str:
        with open(content, "rb") as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {self._name(path)}"

    def _write(self, path: Path, lines: Sequence[str]) -> None:
        write_text(self._place(path), "".join(f"{line}\n" for line in lines))

    def _lines(self, path: Path) -> list[str]:
        """The whole lines about a file; a damaged checksum says nothing of it."""
        return seal_lines(self._place(path), self._name(path))


def seal_name(name: str) -> str:
    """Returns the name of the checksum of a file that is called `name` in its directory."""
    return f"{name.replace('/', '+')}.sha256"


def seal_lines(place: Path | bytes, name: str) -> list[str]:
    """Returns the whole lines of a checksum file, by its path or its bytes, about the file `name`; [] where there are none."""
    try:
        lines = (place if isinstance(place, bytes) else read_small(place)).decode().splitlines()
    except (OSError, ValueError):
        return []
    return [line for line in lines if (found := _LINE.fullmatch(line)) and found[2] == name]


def fits(line: str, content: bytes | Path) -> bool:
    """Returns whether a file, by its path or its bytes, is the one that a line means, or begins as that."""
    digest, _, size = _LINE.fullmatch(line).groups()
    if isinstance(content, Path):
        with open(content, "rb") as file:
            if size is None:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
            content = file.read(int(size))
    beginning = content if size is None else content[: int(size)]
    return (size is None or len(beginning) == int(size)) and hashlib.sha256(beginning).hexdigest() == digest
