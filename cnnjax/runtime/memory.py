"""Memory: what this process keeps for the next step, and a readable error where the device has none left."""

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import jax

from cnnjax.errors import TrainingError

HUGE_PAGE = 2 << 20  # bytes

kept = {"text": ""}  # what `keep_memory` has done, for the line that describes the devices


def keep_memory(config) -> bool:
    """Lets this process keep the memory that it has freed, on huge pages where the system gives them; whether it does.

    XLA takes the memory of a step anew for each, and on a CPU the system then clears all its pages again: with 32 images of
    180 pixels a step takes 0.78 of the time with memory that is kept, 0.75 on huge pages. All threads share one arena, or glibc
    gives back what others held: with augmentation a step takes 0.71. glibc only; before the large arrays, and before threads.
    """
    if not config.runtime.keep_memory or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Of mallopt and madvise, as <malloc.h> and <sys/mman.h> number them.
    arena_max, map_max, trim_threshold, huge_page = -8, -4, -1, 14
    if not (libc.mallopt(arena_max, 1) and libc.mallopt(map_max, 0) and libc.mallopt(trim_threshold, -1)):
        return False
    # The heap grows once by a quarter of the machine's memory, which costs nothing until it is used, to be advised.
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    size = size // HUGE_PAGE * HUGE_PAGE
    block = libc.aligned_alloc(HUGE_PAGE, size)
    advised = bool(block) and libc.madvise(block, size, huge_page) == 0
    libc.free(block)
    with contextlib.suppress(OSError):
        allowed = "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        kept["text"] = ", memory kept on huge pages" if advised and allowed else ", memory kept"
    return True


def host_bytes() -> int:
    """Returns the bytes of memory that this machine, or the container of this process, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            found.append(int(Path(name).read_text()))
    return min(found)


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error of JAX is a lack of memory on the device."""
    return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def readable_shortage(advice: str) -> Iterator[None]:
    """A lack of memory on the device as TrainingError, with the advice."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        wanted = re.search(r"allocat\w+ (\d+) bytes|allocate ([\d.]+ ?[KMGT]?i?B)", str(error))
        size = f" for {int(wanted[1]) / 1e9:,.1f} GB" if wanted and wanted[1] else f" for {wanted[2]}" if wanted else ""
        raise TrainingError(f"no memory left on the device{size}; {advice}") from error
