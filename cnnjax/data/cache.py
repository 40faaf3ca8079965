"""Read and check every file once: its pixels, or the file itself, in a cache that all runs share that need the same."""

import array
import csv
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cnnjax.config import Preprocessing
from cnnjax.data import encoded as encoded_lib
from cnnjax.data.columns import Column, table
from cnnjax.data.decoding import FACTS, decode_all
from cnnjax.data.encoded import EncodedImages
from cnnjax.data.examples import Source
from cnnjax.data.listings import Reference
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress

FORMAT = 6  # part of the key: raise it when decoded pixels change
KINDS = ("decoded", "encoded")  # folders of `data.cache_dir`, and what `data.cache` chooses from


@dataclasses.dataclass(frozen=True)
class Cache:
    """Images in the order of the source's examples.

    Attributes:
        images: uint8 [examples, height, width, 3], read-only; zeros where there is a reason. Of a decoded cache they are a memory map,
            of an encoded one they are decoded whenever they are indexed.
        facts: `FACTS` of the examples as columns of text; "reason" is why it could not be decoded, or "".
        built: whether this call read the files.
        key: of the pixels, from `key`.
    """

    images: np.ndarray | EncodedImages
    facts: dict[str, Column]
    built: bool
    key: str


def key(source: Source, preprocessing: Preprocessing) -> str:
    """Returns a hash of what decides the decoded pixels and of the content: the name of a decoded cache."""
    return _hash([FORMAT, preprocessing.pixels, source.fingerprint])


def build(source: Source, preprocessing: Preprocessing, directory: str | Path, progress: Progress, *, kind: str = "decoded",
          workers: int = 0, stop: Callable[[], bool] = lambda: False, decoding: Callable[[], None] = lambda: None) -> Cache:  # fmt: skip
    """Opens the cache of `source` below `directory`, reading and decoding everything first when it is not there.

    The files appear under their final name by one rename. Two runs that build the same cache at once both finish, and
    the first to be done provides it. Files that have been cut short since are built again.

    Args:
        source: the examples.
        preprocessing: decides the size and the resize.
        directory: `data.cache_dir`.
        progress: gets a bar while images are decoded.
        kind: one of `KINDS`.
        workers: threads; 0: as many as `usable_cpus` says.
        stop: polled between chunks.
        decoding: called before anything is decoded, where it must be.

    Raises:
        DataError: no space, or a directory that cannot be written.
        Stopped: `stop` became true; nothing is left behind.
    """
    pixels = key(source, preprocessing)
    # Files are the same for every size; which of them can be decoded depends on the libraries.
    own = _hash([FORMAT, kind, encoded_lib.SHARDS, preprocessing.library, preprocessing.version, source.fingerprint])
    final = Path(directory).expanduser() / kind / (own if kind == "encoded" else pixels)

    def opened(built: bool) -> Cache | None:
        return _open(final, len(source.examples), preprocessing, kind, workers, built, pixels)

    found = opened(built=False)
    if found is not None:
        return found
    decoding()
    if final.exists():
        progress.warn(f"the {kind} images in {final} are damaged and are made again")
    advice = "name a directory with room with --config.data.cache_dir=DIR"
    temporary = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        temporary = Path(tempfile.mkdtemp(prefix="building-", dir=final.parent))
        _fill(temporary, source, preprocessing, progress, kind, workers, stop)
        try:
            os.rename(temporary, final)
        except OSError:
            if opened(built=True) is None:  # what was damaged is in the way
                shutil.rmtree(final, ignore_errors=True)
                os.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = (
                f"{len(source.examples) * math.prod(preprocessing.shape) * 3 / 1e6:,.0f} MB of " if kind == "decoded" else ""
            )
            raise DataError(f"no space left for {need}{kind} images in {directory}; {advice}") from None
        raise DataError(f"cannot write {kind} images to {directory} ({error.strerror or error}); {advice}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    made = opened(built=True)
    if made is None:
        raise DataError(f"the {kind} images in {final} were damaged as soon as they were written; {advice}")
    return made


def _hash(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _fill(directory: Path, source: Source, preprocessing: Preprocessing, progress: Progress, kind: str, workers: int, stop
          ) -> None:  # fmt: skip
    """Writes the files of a cache to an empty directory."""
    count = len(source.examples)
    rows = array.array("q")  # of the examples that have been read, in the order of the source's stream

    def references() -> Iterator[Reference]:
        for row, reference in source.stream():
            rows.append(row)
            yield reference

    facts, known = np.zeros(count, np.uint32), {}  # the number of each image's, and of each different one
    done = 0
    if kind == "encoded":
        chunks = encoded_lib.write(directory, references(), rows, count, workers)
    else:
        chunks = _write_pixels(directory, references(), rows, count, preprocessing, workers)
    with progress.task("decode", count, "images") as advance:
        for chunk_facts in chunks:
            if stop():
                chunks.close()
                raise Stopped("stopped while decoding, nothing is kept of it; the same command starts again")
            numbers = [known.setdefault(tuple(fact.values()), len(known)) for fact in chunk_facts]
            facts[rows[done : done + len(numbers)]] = numbers
            done += len(chunk_facts)
            advance(len(chunk_facts))
    if done != count:
        raise OSError(f"{count - done} of {count} images vanished while they were decoded")
    with open(directory / "facts.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FACTS)
        different = list(known)
        writer.writerows(different[number] for number in facts)


def _write_pixels(directory: Path, references: Iterator[Reference], rows: array.array, count: int, preprocessing: Preprocessing,
                  workers: int) -> Iterator[list[dict]]:  # fmt: skip
    """Writes decoded images, and yields the facts of some after the other; `rows` has the row of each reference that was taken."""
    shape = (count, *preprocessing.shape, 3)
    row_bytes = math.prod(shape[1:])
    lock = threading.Lock()
    with open(directory / "images.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = file.tell()
        # Written, not mapped: on a full disk a write is an error, a touched page of a mapping is a crash.
        if hasattr(os, "posix_fallocate"):  # a full disk shows before the work, not after it
            os.posix_fallocate(file.fileno(), 0, start + count * row_bytes)

        def write(first: int, pixels: np.ndarray) -> None:
            own = rows[first : first + len(pixels)]
            follow = own == array.array("q", range(own[0], own[0] + len(own)))  # a compressed tar has its own order
            with lock:
                for row, image in [(own[0], pixels)] if follow else zip(own, pixels, strict=True):
                    file.seek(start + row * row_bytes)
                    file.write(image)

        decoded = decode_all(
            references, count, preprocessing.shape, preprocessing.resize, workers, write, preprocessing.range
        )
        for _, facts in decoded:
            yield facts


def _open(directory: Path, count: int, preprocessing: Preprocessing, kind: str, workers: int, built: bool, pixels: str
          ) -> Cache | None:  # fmt: skip
    """None where a file is missing or not of the size that it was written with."""
    try:
        with open(directory / "facts.csv", newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != FACTS:
                return None
            facts = dict(zip(FACTS, table(rows, *["string"] * len(FACTS)), strict=True))
        if kind == "encoded":
            images = encoded_lib.EncodedImages(directory, preprocessing, workers)
        else:
            images = np.load(directory / "images.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError, csv.Error):
        return None
    whole = images.shape == (count, *preprocessing.shape, 3) and images.dtype == np.uint8 and len(facts["reason"]) == count
    return Cache(images, facts, built, pixels) if whole else None


def _sweep(directory: Path) -> None:
    """Removes what a killed process left more than a day ago."""
    for path in directory.glob("building-*"):
        try:
            if path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # another run has just finished or swept it
            pass
