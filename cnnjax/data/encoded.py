"""Files as they are, in shards of ArrayRecord (the format of Grain's own sources), and decoded whenever their images are wanted: for sets that do not fit decoded.

A row has its shard by its number alone: of 32 rows in a row each shard has one. So each shard is a sample of the whole set, and a
process that trains on its part of each batch reads its part of the shards.
"""

import array
import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from cnnjax.config import Preprocessing
from cnnjax.cpus import usable_cpus
from cnnjax.data import images as images_lib
from cnnjax.data.crops import Crop
from cnnjax.data.decoding import FACTS, chunks, in_order, read, reason_of
from cnnjax.data.listings import Reference
from cnnjax.data.resizes import SIDE, averaged
from cnnjax.errors import DataError

SHARDS = 32  # each holds up to 16 MB in memory while it is written
OPTIONS = "group_size:1,uncompressed"  # each record can be read alone; compressed pictures become no smaller
CHUNK = 8  # files that a thread reads, checks and writes at once
PARTS = 4  # of the images that are wanted, for each thread, so that threads end together
DIGEST = 16  # bytes


def shards_of(count: int) -> np.ndarray:
    """Returns the shard of each of `count` rows, uint8 [count]; that of a row does not depend on `count`."""
    rounds = np.tile(np.arange(SHARDS, dtype=np.uint8), (-(-count // SHARDS), 1))
    return np.random.Generator(np.random.Philox(0)).permuted(rounds, axis=1).ravel()[:count]


def write(
    directory: Path, references: Iterator[Reference], rows: array.array, count: int, workers: int
) -> Iterator[list[dict]]:
    """Writes the shards of a cache, and yields `FACTS` of some files after the other, in the order of `references`.

    Beside the shards: the record of each row; a digest and a small copy of its pixels, by which copies of a picture are found.

    Args:
        directory: empty.
        references: the files, each one's row in `rows` once it was taken.
        rows: see there.
        count: how many they are.
        workers: threads; 0: as many as `usable_cpus` says.
    """
    shards, lock = shards_of(count), threading.Lock()
    writers = {int(shard): ArrayRecordWriter(str(_path(directory, shard)), OPTIONS) for shard in np.unique(shards)}
    written = np.zeros(SHARDS, np.int64)
    places = np.zeros(count, np.int64)  # in its shard
    small = np.lib.format.open_memmap(directory / "small.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    digests = np.zeros((count, DIGEST), np.uint8)

    def add(first: int, chunk: list[Reference]) -> list[dict]:
        found = [_checked(read(reference)) for reference in chunk]
        with lock:
            for row, (content, facts, pixels) in zip(rows[first : first + len(chunk)], found, strict=True):
                shard = int(shards[row])
                with _system_errors():
                    writers[shard].write(content)
                places[row], written[shard] = written[shard], written[shard] + 1
                if not facts["reason"]:
                    digests[row], small[row] = pixels
        return [facts for _, facts, _ in found]

    try:
        with images_lib.quiet():
            yield from in_order(add, chunks(references, CHUNK), workers or usable_cpus())
    finally:
        for writer in writers.values():
            with _system_errors():
                writer.close()
    small.flush()
    np.save(directory / "digests.npy", digests)
    np.save(directory / "places.npy", places)
    sizes = {path.name: path.stat().st_size for path in sorted(directory.glob("*.array_record"))}
    (directory / "sizes.json").write_text(json.dumps(sizes))


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Turns the writer's errors into those of the system, such as a full disk."""
    try:
        yield
    except RuntimeError as error:
        code = next((code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in str(error)), errno.EIO)
        raise OSError(code, os.strerror(code)) from None


def _path(directory: Path, shard: int) -> Path:
    return directory / f"{shard:05}-of-{SHARDS:05}.array_record"


def _checked(file: bytes | np.ndarray | Exception) -> tuple[bytes, dict, tuple[np.ndarray, np.ndarray] | None]:
    """The record of a file, its facts, and digest and small copy of its pixels; an empty record where there is a reason."""
    try:
        if isinstance(file, Exception):
            raise file
        pixels, facts = images_lib.decode_whole(file)
        content = file if isinstance(file, bytes) else _png(pixels)
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST)
        digest.update(np.ascontiguousarray(pixels))
        looks = np.frombuffer(digest.digest(), np.uint8), averaged(pixels)
        return content, {**facts, "reason": ""}, looks
    except Exception as error:
        return b"", {**dict.fromkeys(FACTS, ""), "reason": reason_of(error)}, None


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


class EncodedImages:
    """Images that are decoded when they are indexed: uint8 [n, height, width, 3], the same as those of a decoded cache.

    Threads decode the images of an index; the decoders and the resize release the interpreter.

    Args:
        directory: what `write` has filled.
        preprocessing: the size, the resize and the levels of the images.
        workers: threads; 0: as many as `usable_cpus` says.

    Attributes:
        shape: n, height, width, 3.
        digests: uint8 [n, 16] of the pixels in the files; zeros where a file cannot be decoded.
        small: uint8 [n, 32, 32, 3], averages of these pixels.
        shards: uint8 [n], the shard of each.

    Raises:
        OSError, ValueError: a file is missing, or not of the size that it was written with.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, directory: Path, preprocessing: Preprocessing, workers: int = 0):
        sizes = json.loads((directory / "sizes.json").read_text())
        if any((directory / name).stat().st_size != size for name, size in sizes.items()):
            raise ValueError("a shard was cut short")
        self.digests = np.load(directory / "digests.npy")
        self.small = np.load(directory / "small.npy", mmap_mode="r")
        self._places = np.load(directory / "places.npy")
        self.shape = (len(self._places), *preprocessing.shape, 3)
        self.shards = shards_of(len(self._places))
        self._directory, self._how = directory, preprocessing
        self._reader = functools.cache(lambda shard: ArrayRecordReader(str(_path(directory, shard))))
        self._workers = workers or usable_cpus()
        self._pool = ThreadPoolExecutor(self._workers)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged metadata of images whose pixels are whole

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *_, **__):
        raise TypeError("encoded images are decoded by an index: all of them may not fit in memory")

    def __getitem__(self, index) -> np.ndarray:
        """Returns the images of an index of the first axis, or a part of each where the index has more axes."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = np.arange(*first.indices(len(self))) if isinstance(first, slice) else np.asarray(first)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        images = self._decoded(rows.ravel())
        return images.reshape(*rows.shape, *self.shape[1:])[(*[slice(None)] * rows.ndim, *rest)]

    def crops(self, rows: np.ndarray, crop: Crop, drawn: np.ndarray) -> np.ndarray:
        """Returns random parts of the images, resized from the pixels of the files: uint8 [rows, height, width, 3].

        Args:
            rows: int64 [rows].
            crop: what the parts are like.
            drawn: a row of numbers for each image, from `crop.draw`.
        """
        return self._decoded(rows, crop, drawn)

    def file(self, row: int) -> bytes:
        """Returns the file of a row, or pixels as PNG; b"" where it cannot be decoded."""
        return self._reader(int(self.shards[row])).read([int(self._places[row])])[0]

    def _decoded(self, rows: np.ndarray, crop: Crop | None = None, drawn: Sequence | None = None) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def decode(part: np.ndarray) -> None:
            for i in part:
                window = None if crop is None else functools.partial(crop.window, drawn[i])
                self._decode(int(rows[i]), out[i], window)

        parts = np.array_split(np.arange(len(rows)), min(PARTS * self._workers, max(len(rows), 1)))
        for _ in self._pool.map(decode, parts) if len(parts) > 1 else map(decode, parts):
            pass
        return out

    def _decode(self, row: int, out: np.ndarray, window: images_lib.Window | None) -> None:
        how = self._how
        try:
            content = self.file(row)
            if not content:
                out[:] = 0
            elif window is None:
                images_lib.decode_resized(content, how.shape, how.resize, out, how.range)
            else:
                images_lib.decode_cropped(content, how.shape, how.resize, window, out, how.range)
        except Exception as error:  # what was whole when it was written
            raise DataError(f"the encoded images in {self._directory} are damaged ({str(error).splitlines()[0]}); delete this folder, and the same "
                            "command makes it again") from None  # fmt: skip
