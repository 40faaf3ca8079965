"""Features of images by a frozen network, kept beside the decoded images: computed once, shared by runs, folds and seeds."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnjax.errors import DataError

ROWS = 256  # images of a file; a run that is stopped loses the work on fewer


class FeatureFiles:
    """The features of the images of a cache by one network, in files of `ROWS` images.

    A file appears under its name by one rename. It holds numbers that are not finite for images that nobody has asked for. Runs
    that write the same file at once have the same numbers for the images of both, so that either is right.

    Args:
        directory: `data.cache_dir`.
        key: of the images and of the network; hexadecimal digits.
    """

    def __init__(self, directory: str | Path, key: str):
        self._folder = Path(directory).expanduser() / "features" / key

    def read(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Returns the features of `rows` of the cache, float32 [rows, width]; not finite where there are none yet."""
        found = np.full((len(rows), width), np.nan, np.float32)
        for part, inside in _parts(rows):
            if (held := self._held(part, width)) is not None:
                found[inside] = held[rows[inside] % ROWS]
        return found

    def tasks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yields those of `rows` that one file holds, file after file."""
        for _, inside in _parts(rows):
            yield rows[inside]

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Writes the features of `rows` that `tasks` gave, float32 [rows, width], beside those that the file holds.

        Raises:
            DataError: no space, or a directory that cannot be written.
        """
        part, width = int(rows[0]) // ROWS, features.shape[1]
        held = self._held(part, width)
        held = np.full((ROWS, width), np.nan, np.float32) if held is None else held
        held[rows % ROWS] = features
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix="building-", dir=self._folder)
            try:
                with open(handle, "wb") as file:
                    np.save(file, held)
                os.replace(temporary, self._folder / f"{part}.npy")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
        except OSError as error:
            raise DataError(f"cannot write features to {self._folder} ({error.strerror or error}); name a directory with room with "
                            "--config.data.cache_dir=DIR") from None  # fmt: skip

    def _held(self, part: int, width: int) -> np.ndarray | None:
        """The features in a file, float32 [ROWS, width]; None where there is none, or one that was cut short."""
        try:
            held = np.load(self._folder / f"{part}.npy")
        except (OSError, ValueError, EOFError):
            return None
        return held if held.shape == (ROWS, width) and held.dtype == np.float32 else None


def _parts(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each file, and the places in `rows` of its images."""
    parts = rows // ROWS
    for part in np.unique(parts):
        yield int(part), np.flatnonzero(parts == part)
