"""The numbers of a run as it goes on: `history.csv`, a row per epoch, and `metrics.jsonl`, a row per logged step."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.runs.files import write_text

HISTORY = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second")

RAW = ("raw_val_loss", "raw_val_accuracy")


class History:
    """Writes a run's two tables of numbers.

    Args:
        table: `history.csv`, a row per epoch.
        log: `metrics.jsonl`, a row per logged step and evaluation.
        step: the step at which the run goes on; later rows belong to work that was lost, and are dropped.
        averaged: the validation columns are of averaged weights; `RAW` columns, of the weights themselves, follow.
    """

    def __init__(self, table: Path, log: Path, step: int, *, averaged: bool = False):
        self.columns = HISTORY + RAW if averaged else HISTORY
        self._table = table
        self.rows = [row for row in read_history(table) if row["step"] <= step]
        self._write()
        kept = []
        if log.exists():
            for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
                # A line cut short by a crash is after the last checkpoint by construction.
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
        write_text(log, "".join(kept))
        self._log = open(log, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Adds a row of `HISTORY` (and `RAW`)."""
        self.rows.append(dict(row))
        self._write()

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; the row has a "step"."""
        self._log.write(json.dumps(row) + "\n")
        self._log.flush()

    def sync(self) -> None:
        """Brings logged rows to the disk, before a checkpoint after which they are not logged again."""
        os.fsync(self._log.fileno())

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _write(self) -> None:
        lines = [",".join(self.columns), *(",".join(repr(row[name]) for name in self.columns) for row in self.rows)]
        write_text(self._table, "\n".join(lines) + "\n")


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
    """Returns the rows of `history.csv` as numbers; [] where there is none."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
