"""Images read and decoded by all cores, in the order in which they are asked for."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnnjax.cpus import usable_cpus
from cnnjax.data import images as images_lib
from cnnjax.data.listings import Reference

CHUNK = 64  # images per task of a thread, fewer where they take more than
CHUNK_BYTES = 2**21  # so that those on their way stay in the processor's caches
HELD = 2**28  # bytes of encoded files that wait for a thread, and one file more, or one chunk
ALONE = 600  # fewer images are decoded in the calling thread
FACTS = ("width", "height", "format", "mode", "low", "high", "reason")


def decode_chunk(references: list[Reference], shape: tuple[int, int], method: str, out: np.ndarray | None = None,
                 levels: tuple[float, ...] = ()) -> tuple[np.ndarray, list[dict]]:  # fmt: skip
    """Reads and decodes in the calling thread, to `out`: uint8 [n, height, width, 3], and `FACTS` of each."""
    out = np.empty((len(references), *shape, 3), np.uint8) if out is None else out[: len(references)]
    left, facts = collections.deque(references), []
    while left:
        files, held = [], 0
        while left and held < HELD // 8:
            files.append(read(left.popleft()))
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
            except Exception as error:
                reason = reason_of(error)
            if reason:
                pixels[:] = 0
        facts.append({**known, "reason": reason})
    return facts


def reason_of(error: Exception) -> str:
    """Returns why a file cannot be used: it is not an image, or it vanished, is a damaged member of an archive, wants a password."""
    return (
        str(error) if isinstance(error, images_lib.ImageError) else f"cannot be read ({str(error) or type(error).__name__})"
    )


def _bytes(file) -> int:
    """Bytes of a file or of its pixels; 0 for an error, or a file that is not read yet."""
    return memoryview(file).nbytes if isinstance(file, (bytes, np.ndarray)) else 0


def chunks(references: Iterable[Reference], most: int) -> Iterator[tuple[int, list[Reference]]]:
    """Yields the number of the first one and up to `most` references, fewer where they hold large files."""
    first, chunk, held = 0, [], 0
    for reference in references:
        chunk.append(reference)
        held += _bytes(getattr(reference, "data", None))
        if len(chunk) == most or held >= HELD // 8:
            yield first, chunk
            first, chunk, held = first + len(chunk), [], 0
    if chunk:
        yield first, chunk


def read(reference: Reference):
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
        workers: threads; 0: as many as `usable_cpus` says.
        write: called with the number of the first of some images and the images, by the thread that has decoded them and
            while the caches of its core hold them. The images that are yielded are then overwritten already.
        levels: as in `images.decode`.

    Yields:
        What `decode_chunk` returns, for up to `CHUNK` images. The next one may overwrite the images.
    """
    most = max(min(CHUNK, CHUNK_BYTES // (3 * math.prod(shape))), 1)
    most = 1 << (most.bit_length() - 1)  # a power of two, as networks are given them
    workers = 1 if count <= ALONE else workers or usable_cpus()
    ahead = ahead_of(workers)
    rooms = [np.empty((most, *shape, 3), np.uint8) for _ in range(ahead + 1)]  # the last one used is the next one

    def decode(first: int, chunk: list[Reference]) -> tuple[np.ndarray, list[dict]]:
        room = rooms.pop()
        pixels, facts = decode_chunk(chunk, shape, method, room, levels)
        if write:
            write(first, pixels)
            rooms.append(room)
        return room, facts

    tasks = chunks(references, most)
    with images_lib.quiet():
        for room, facts in in_order(decode, tasks, workers):
            yield room[: len(facts)], facts
            if not write:
                rooms.append(room)


def ahead_of(workers: int) -> int:
    """Returns the tasks that `in_order` has under way or done when one is asked for."""
    return 3 * workers if workers > 1 else 0


def in_order(function: Callable, tasks: Iterable[tuple[int, list[Reference]]], workers: int) -> Iterator:
    """Yields what `itertools.starmap` does, from threads that work ahead, on `HELD` bytes at most; one worker is the calling thread."""
    if workers == 1:
        yield from itertools.starmap(function, tasks)
        return
    # Threads: the decoders and the resize release the interpreter, and nothing is started or copied.
    ahead, pool, pending, sizes = ahead_of(workers), ThreadPoolExecutor(workers), collections.deque(), collections.deque()
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
