"""Decode once: every image of a source as uint8 in one memory-mapped file, shared by all runs that need the same."""

import array
import collections
import csv
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnnjax.config import Preprocessing
from cnnjax.data import images as images_lib
from cnnjax.data.columns import Column, table
from cnnjax.data.examples import Source
from cnnjax.data.listings import Reference
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress

FORMAT = 6  # part of the key: raise it when decoded pixels change
CHUNK = 64  # images per task of a thread, fewer where they take more than
CHUNK_BYTES = 2**21  # so that those on their way stay in the processor's caches
HELD = 2**28  # bytes of encoded files that wait for a thread, and one file more, or one chunk
ALONE = 600  # fewer images are decoded in the calling thread
FACTS = ("width", "height", "format", "mode", "low", "high", "reason")


@dataclasses.dataclass(frozen=True)
class Cache:
    """Decoded images in the order of the source's examples.

    Attributes:
        images: uint8 [examples, height, width, 3], memory-mapped, read-only; zeros where there is a reason.
        facts: `FACTS` of the examples as columns of text; "reason" is why it could not be decoded, or "".
        built: whether this call decoded the images.
        key: of its content, from `key`.
    """

    images: np.ndarray
    facts: dict[str, Column]
    built: bool
    key: str


def decode_chunk(references: list[Reference], shape: tuple[int, int], method: str, out: np.ndarray | None = None,
                 levels: tuple[float, ...] = ()) -> tuple[np.ndarray, list[dict]]:  # fmt: skip
    """Reads and decodes in the calling thread, to `out`: uint8 [n, height, width, 3], and `FACTS` of each."""
    out = np.empty((len(references), *shape, 3), np.uint8) if out is None else out[: len(references)]
    left, facts = collections.deque(references), []
    while left:
        files, held = [], 0
        while left and held < HELD // 8:
            files.append(_read(left.popleft()))
            held += _bytes(files[-1])
        facts += _decode_files(files, shape, method, out[len(facts) : len(facts) + len(files)], levels)
    return out, facts


def _decode_files(
    files: list, shape: tuple[int, int], method: str, out: np.ndarray, levels: tuple[float, ...]
) -> list[dict]:
    """`FACTS` of files or of the errors that reading them gave, decoded to `out`."""
    facts = []
    for file, pixels, known in zip(files, out, images_lib.decode_plain(files, method, out), strict=True):
        reason = ""
        if known is None:
            known = dict.fromkeys(FACTS[:-1], "")
            try:
                if isinstance(file, Exception):
                    raise file
                known = images_lib.decode_resized(file, shape, method, pixels, levels)[1]
            except images_lib.ImageError as error:
                reason = str(error)
            except Exception as error:  # a vanished file, a damaged archive member, a password
                reason = f"cannot be read ({str(error) or type(error).__name__})"
            if reason:
                pixels[:] = 0
        facts.append({**known, "reason": reason})
    return facts


def _bytes(file) -> int:
    """Bytes of a file or of its pixels; 0 for an error, or a file that is not read yet."""
    return memoryview(file).nbytes if isinstance(file, (bytes, np.ndarray)) else 0


def _chunks(references: Iterable[Reference], most: int) -> Iterator[tuple[int, list[Reference]]]:
    """The number of the first one and up to `most` references, fewer where they hold large files."""
    first, chunk, held = 0, [], 0
    for reference in references:
        chunk.append(reference)
        held += _bytes(getattr(reference, "data", None))
        if len(chunk) == most or held >= HELD // 8:
            yield first, chunk
            first, chunk, held = first + len(chunk), [], 0
    if chunk:
        yield first, chunk


def _read(reference: Reference):
    """Returns the file or its pixels, or the error."""
    try:
        return reference.read()
    except Exception as error:
        return error


def decode_all(references: Iterable[Reference], count: int, shape: tuple[int, int], method: str, workers: int = 0,
               write: Callable[[int, np.ndarray], None] | None = None, levels: tuple[float, ...] = ()
               ) -> Iterator[tuple[np.ndarray, list[dict]]]:  # fmt: skip
    """Decodes in the given order with all cores, some hundred images ahead of the caller.

    Args:
        references: what to read.
        count: how many they are; few are decoded in the calling thread.
        shape: height and width of the results.
        method: as in `images.decode_resized`.
        workers: threads; 0: one per usable core.
        write: called with the number of the first of some images and the images, by the thread that has decoded them and
            while the caches of its core hold them. The images that are yielded are then overwritten already.
        levels: as in `images.decode`.

    Yields:
        What `decode_chunk` returns, for up to `CHUNK` images. The next one may overwrite the images.
    """
    most = max(min(CHUNK, CHUNK_BYTES // (3 * math.prod(shape))), 1)
    most = 1 << (most.bit_length() - 1)  # a power of two, as networks are given them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = workers or cores
    ahead = 0 if count <= ALONE or workers == 1 else 3 * workers
    rooms = [np.empty((most, *shape, 3), np.uint8) for _ in range(ahead + 1)]  # the last one used is the next one

    def decode(first: int, chunk: list[Reference]) -> tuple[np.ndarray, list[dict]]:
        room = rooms.pop()
        pixels, facts = decode_chunk(chunk, shape, method, room, levels)
        if write:
            write(first, pixels)
            rooms.append(room)
        return room, facts

    tasks = _chunks(references, most)
    with images_lib.quiet():
        for room, facts in _ahead(decode, tasks, ahead, workers) if ahead else itertools.starmap(decode, tasks):
            yield room[: len(facts)], facts
            if not write:
                rooms.append(room)


def _ahead(function: Callable, tasks: Iterable[tuple[int, list[Reference]]], ahead: int, workers: int) -> Iterator:
    """`itertools.starmap` by threads, which do up to `ahead` more than were asked for, of `HELD` bytes."""
    # Threads: the decoders and the resize release the interpreter, and nothing is started or copied.
    pool, pending, sizes = ThreadPoolExecutor(workers), collections.deque(), collections.deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, *task))
            sizes.append(sum(_bytes(getattr(reference, "data", None)) for reference in task[1]))
            del task  # it holds files
            while len(pending) > ahead or (pending and sum(sizes) > HELD):
                sizes.popleft()
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def key(source: Source, preprocessing: Preprocessing) -> str:
    """The name of a cache: a hash of its format, of what decides the decoded pixels, and of its content."""
    parts = [FORMAT, preprocessing.pixels, source.fingerprint]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def build(source: Source, preprocessing: Preprocessing, directory: str | Path, progress: Progress, *, workers: int = 0,
          stop: Callable[[], bool] = lambda: False, decoding: Callable[[], None] = lambda: None) -> Cache:  # fmt: skip
    """Opens the cache of `source` below `directory`, decoding everything first when it is not there.

    The files appear under their final name by one rename. Two runs that build the same cache at once both finish, and
    the first to be done provides it. Files that have been cut short since are built again.

    Args:
        source: the examples.
        preprocessing: decides the size and the resize.
        directory: `data.cache_dir`.
        progress: gets a bar while images are decoded.
        workers: threads; 0: one per usable core.
        stop: polled between chunks.
        decoding: called before anything is decoded, where it must be.

    Raises:
        DataError: no space, or a directory that cannot be written.
        Stopped: `stop` became true; nothing is left behind.
    """
    final = Path(directory).expanduser() / "decoded" / key(source, preprocessing)
    found = _open(final, len(source.examples), preprocessing.shape, built=False)
    if found is not None:
        return found
    decoding()
    if final.exists():
        progress.warn(f"the decoded images in {final} are damaged and are decoded again")
    advice = "name a directory with room with --config.data.cache_dir=DIR"
    temporary = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        temporary = Path(tempfile.mkdtemp(prefix="building-", dir=final.parent))
        _decode_into(temporary, source, preprocessing, progress, workers, stop)
        try:
            os.rename(temporary, final)
        except OSError:
            if _open(final, len(source.examples), preprocessing.shape, built=True) is None:  # what was damaged is in the way
                shutil.rmtree(final, ignore_errors=True)
                os.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = len(source.examples) * math.prod(preprocessing.shape) * 3
            raise DataError(f"no space left for {need / 1e6:,.0f} MB of decoded images in {directory}; {advice}") from None
        raise DataError(f"cannot write decoded images to {directory} ({error.strerror or error}); {advice}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    opened = _open(final, len(source.examples), preprocessing.shape, built=True)
    if opened is None:
        raise DataError(f"the decoded images in {final} were damaged as soon as they were written; {advice}")
    return opened


def _decode_into(directory: Path, source: Source, preprocessing: Preprocessing, progress: Progress, workers: int, stop
                 ) -> None:  # fmt: skip
    count = len(source.examples)
    shape = (count, *preprocessing.shape, 3)
    row_bytes = math.prod(shape[1:])
    positions = array.array("q")

    def references() -> Iterator[Reference]:
        for i, reference in source.stream():
            positions.append(i)
            yield reference

    facts, known = np.zeros(count, np.uint32), {}  # the number of each image's, and of each different one
    done, lock = 0, threading.Lock()
    with open(directory / "images.npy", "wb") as file, progress.task("decode", count, "images") as advance:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = file.tell()
        # Written, not mapped: on a full disk a write is an error, a touched page of a mapping is a crash.
        if hasattr(os, "posix_fallocate"):  # a full disk shows before the work, not after it
            os.posix_fallocate(file.fileno(), 0, start + count * row_bytes)

        def write(first: int, pixels: np.ndarray) -> None:
            rows = positions[first : first + len(pixels)]
            follow = rows == array.array("q", range(rows[0], rows[0] + len(rows)))  # a compressed tar has its own order
            with lock:
                for i, image in [(rows[0], pixels)] if follow else zip(rows, pixels, strict=True):
                    file.seek(start + i * row_bytes)
                    file.write(image)

        decoded = decode_all(
            references(), count, preprocessing.shape, preprocessing.resize, workers, write, preprocessing.range
        )
        for _, chunk_facts in decoded:
            if stop():
                raise Stopped("stopped while decoding, nothing is kept of it; the same command starts again")
            numbers = [known.setdefault(tuple(fact.values()), len(known)) for fact in chunk_facts]
            facts[positions[done : done + len(numbers)]] = numbers
            done += len(chunk_facts)
            advance(len(chunk_facts))
    if done != count:
        raise OSError(f"{count - done} of {count} images vanished while they were decoded")
    with open(directory / "facts.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FACTS)
        different = list(known)
        writer.writerows(different[number] for number in facts)


def _open(directory: Path, count: int, shape: tuple[int, int], built: bool) -> Cache | None:
    """None where a file is missing or not of the size that it was written with."""
    try:
        with open(directory / "facts.csv", newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != FACTS:
                return None
            facts = dict(zip(FACTS, table(rows, *["string"] * len(FACTS)), strict=True))
        images = np.load(directory / "images.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError, csv.Error):
        return None
    whole = images.shape == (count, *shape, 3) and images.dtype == np.uint8 and len(facts["reason"]) == count
    return Cache(images, facts, built, directory.name) if whole else None


def _sweep(directory: Path) -> None:
    """Removes what a killed process left more than a day ago."""
    for path in directory.glob("building-*"):
        try:
            if path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # another run has just finished or swept it
            pass
