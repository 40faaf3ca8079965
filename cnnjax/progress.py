"""How long work tells its caller what happens. The library reports here and never prints itself.

`Progress` is silent and is the default everywhere. `Console` writes for people: live bars on a terminal, plain lines
in a log file.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


def duration(seconds: float) -> str:
    """Seconds as people write them: '4.2 s', '3:07', '2:15:09'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def counted(number: int, thing: str) -> str:
    """A number of things as people write it: '1 file', '3,000 files'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))}
_CONTROL |= {number: f"\\u{number:04x}" for number in _BIDI}


def printable(text: str) -> str:
    """Returns a text with the characters spelled out that control a terminal: names of files may be a stranger's."""
    return text.translate(_CONTROL)


class Progress:
    """The silent form; also the interface."""

    def message(self, text: str) -> None:
        """One finished line, such as a row of the history."""

    def warn(self, text: str) -> None:
        """One line about something that is not as it should be, but can be worked with."""

    @contextlib.contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """A piece of work of `total` units; yields `advance(n, note="", total=None)`."""
        yield lambda n, note="", total=None: None


class Console(Progress):
    """Progress for people on a text stream: rich bars on a terminal, a line every `interval` seconds elsewhere."""

    def __init__(self, stream=None, interval: float = 30.0):
        from rich.console import Console as RichConsole

        self._stream = stream or sys.stdout
        self._rich = RichConsole(file=self._stream, highlight=False, soft_wrap=True)
        self._interval = interval

    def message(self, text):
        self._rich.print(printable(text), markup=False)

    def warn(self, text):
        self._rich.print(printable(f"note: {text}").replace("\n", "\\n"), markup=False, style="yellow")

    @contextlib.contextmanager
    def task(self, name, total, unit):
        with self._bar(name, total, unit) if self._rich.is_terminal else self._lines(name, total, unit) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, name, total, unit):
        from rich import progress as rich_progress

        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            rich_progress.TextColumn("{task.fields[note]}"),
            rich_progress.TextColumn("ETA"),
            rich_progress.TimeRemainingColumn(compact=True),
        )
        with rich_progress.Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(name, total=total, unit=unit, note="")
            start = time.monotonic()
            done = 0

            def advance(n, note="", total=None):
                nonlocal done
                done += n
                note = note or f"{done / max(time.monotonic() - start, 1e-9):,.0f} {unit}/s"
                bar.update(task, advance=n, note=note, total=total)

            yield advance

    @contextlib.contextmanager
    def _lines(self, name, size, unit):
        start = last = time.monotonic()
        done = 0

        def advance(n, note="", total=None):
            nonlocal done, last
            done += n
            end = total or size
            now = time.monotonic()
            if now - last < self._interval or done >= end:
                return
            last = now
            note = note or f"{done / (now - start):,.0f} {unit}/s"
            left = duration((now - start) / done * (end - done))
            self.message(f"{name}: {done:,.0f}/{end:,.0f} {unit}  {note}  ETA {left}")

        yield advance
