"""The numbers of a run as it goes on: `history.csv`, a row per epoch, and `metrics.jsonl`, a row per logged step."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnnjax.errors import CheckpointError
from cnnjax.runs.files import damaged_line, read_rows, write_text
from cnnjax.runs.sealed import SealedFiles

HISTORY = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second")

RAW = ("raw_val_loss", "raw_val_accuracy")
PENALTY = ("penalty",)


class Tables(Protocol):
    """The part of a run directory that a history needs.

    Attributes:
        history: `history.csv`, a row per epoch.
        metrics: `metrics.jsonl`, a row per logged step and evaluation.
        sealed: checksums of both.
    """

    history: Path
    metrics: Path
    sealed: SealedFiles

    def read_history(self) -> list[dict]:
        """Returns the rows of `history.csv`. Raises CheckpointError for a damaged one."""
        ...

    def set_aside(self, path: Path) -> Path:
        """Moves a damaged file out of the way; returns where it is."""
        ...


class History:
    """Writes a run's two tables of numbers. One of an earlier start that is damaged is set aside, and begins anew.

    Args:
        run: the run directory.
        step: the step at which the run goes on; later rows belong to work that was lost, and are dropped.
        more: columns that follow `HISTORY`: `RAW` where the validation columns are of averaged weights, for those of the weights
            themselves; `PENALTY` of a probe.
        warn: hears of what was damaged.
    """

    def __init__(self, run: Tables, step: int, *, more: Sequence[str] = (), warn: Callable[[str], None] = lambda text: None):
        self.columns = (*HISTORY, *more)
        self._run = run
        rows = _usable(run, run.history, run.read_history, warn)
        self.rows = [row for row in rows if row["step"] <= step and row.keys() == set(self.columns)]
        self._write()
        kept = "".join(line for at, line in _usable(run, run.metrics, lambda: _read_log(run), warn) if at <= step)
        self._digest, self._size = hashlib.sha256(kept.encode()), len(kept.encode())
        self._seal_log()  # first: the longer file of before begins so too
        write_text(run.metrics, kept)
        self._log = open(run.metrics, "ab")  # noqa: SIM115 - closed in close()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Adds a row of `columns`."""
        self.rows.append(dict(row))
        self._write()

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; the row has a "step"."""
        line = f"{json.dumps(row)}\n".encode()
        self._log.write(line)
        self._log.flush()
        self._digest.update(line)
        self._size += len(line)

    def sync(self) -> None:
        """Brings logged rows to the disk, before a checkpoint after which they are not logged again."""
        os.fsync(self._log.fileno())
        self._seal_log()

    def close(self) -> None:
        """Closes the log."""
        self._log.close()
        self._seal_log()

    def _seal_log(self) -> None:
        self._run.sealed.seal_beginning(self._run.metrics, self._digest.hexdigest(), self._size)

    def _write(self) -> None:
        lines = [",".join(self.columns), *(",".join(repr(row[name]) for name in self.columns) for row in self.rows)]
        with self._run.sealed.replacing(self._run.history) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


class NoHistory:
    """Stands in for `History` where another process writes the files."""

    rows: Sequence[dict] = ()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Does nothing."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_history(path: Path) -> list[dict]:
    """Returns the rows of `history.csv` as numbers; [] where there is none. Raises CheckpointError for a damaged one."""
    if not path.exists():
        return []
    header, *rows = itertools.chain(read_rows(path), [] if path.stat().st_size else [[]])
    try:
        if not set(HISTORY) <= set(header):
            raise ValueError(f"it has no column {', '.join(sorted(set(HISTORY) - set(header)))}")
        return [
            {name: (int if name in ("epoch", "step") else float)(text) for name, text in zip(header, row, strict=True)}
            for row in rows
        ]
    except ValueError as error:
        raise CheckpointError(damaged_line(path, error)) from None


def _usable(run: Tables, path: Path, read: Callable[[], list], warn: Callable[[str], None]) -> list:
    """The rows that `read` returns; [] of a damaged file, which is set aside."""
    try:
        return read()
    except CheckpointError as error:
        moved = f"was moved to {run.set_aside(path)}, and " if path.exists() else ""
        warn(f"{str(error).partition(';')[0]}; it {moved}begins anew")
        return []


def _read_log(run: Tables) -> list[tuple[int, str]]:
    """The lines of `metrics.jsonl` with their steps."""
    run.sealed.check(run.metrics)
    lines, found = run.metrics.read_bytes().splitlines(keepends=True) if run.metrics.exists() else [], []
    try:
        for number, line in enumerate(lines):
            if number + 1 == len(lines) and not line.endswith(b"\n"):
                break  # cut short by a crash, and after the last checkpoint by construction
            step = json.loads(line)["step"]
            if type(step) is not int:
                raise ValueError(f"step {step!r}")
            found.append((step, line.decode()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(damaged_line(run.metrics, f"line {len(found) + 1}: {error}")) from None
    return found
