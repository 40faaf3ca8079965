"""Findings of the fuzzers, and what each is allowed to cost."""

import contextlib
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import cnnjax
from cnnjax.data.limits import MAX_MEMORY, MEGABYTE

PACKAGE = Path(cnnjax.__file__).parent
MEMORY = (
    MAX_MEMORY + 100 * MEGABYTE
)  # that one input may take beside what the process had before: its file and the result come on top


class Finding(AssertionError):
    """Something that must not happen.

    Attributes:
        kind: what findings of one cause have in common.
    """

    def __init__(self, kind: str, reason: str = ""):
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind = kind


class Skip(Exception):
    """Raised where this machine cannot run a fuzzer; the message is the reason."""


def told(error: BaseException) -> str:
    """Returns the type of an error and the deepest place in the package that it went through: "KeyError in runs/files.py:read_json"."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    place = f" in {Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"


@contextlib.contextmanager
def bounded(seconds: float, memory: float = MEMORY) -> Iterator[None]:
    """Raises Finding where the block takes more seconds of the processor, or more bytes at once; memory on Linux only."""
    peak, before, start = Path("/proc/self/clear_refs"), 0, time.process_time()
    with contextlib.suppress(OSError):
        peak.write_text("5")  # the highest use so far is forgotten
        before = _status("VmRSS")
    yield
    spent = time.process_time() - start
    if spent > seconds:
        raise Finding("slow", f"{spent:.1f} s of the processor, at most {seconds:g} are allowed")
    used = _status("VmHWM") - before if before else 0
    if used > memory:
        raise Finding("memory", f"{used / 1e6:,.0f} MB at once, at most {memory / 1e6:,.0f} are allowed")


def _status(name: str) -> int:
    """Bytes of a line of Linux' status of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024
