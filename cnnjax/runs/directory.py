"""The files of a run directory: claimed by one config, written whole, continued without a gap."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import tree as config_lib
from cnnjax.errors import CheckpointError, ConfigError

HISTORY = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second")

RAW = ("raw_val_loss", "raw_val_accuracy")


def write_text(path: Path, text: str) -> None:
    """Writes whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file that this package has written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; name a run directory with --workdir=DIR") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or use another --workdir") from None


def check_writable(directory: Path, advice: str) -> None:
    """Raises CheckpointError, with the advice, where no file can be made in a directory, which is made when missing."""
    try:
        write_text(directory / ".writable", "")
        (directory / ".writable").unlink(missing_ok=True)  # another run may have made the same test
    except OSError as error:
        raise CheckpointError(f"cannot write to {directory} ({error.strerror}); {advice}") from None


def check_apart(workdir: Path, config) -> None:
    """Raises ConfigError where the run directory is the folder of the images or lies in it: it would become part of the data."""
    if config.data.source != "files" or not config.data.path:
        return
    data = Path(config.data.path).expanduser().resolve()
    if data.is_dir() and workdir.resolve().is_relative_to(data):
        raise ConfigError(f"--workdir={workdir} lies in the folder of the images, {data}; name a directory outside of it, such "
                          f"as --workdir={data.parent / f'{data.name}-run'}")  # fmt: skip


def check_unused(workdir: Path) -> None:
    """Raises CheckpointError where the directory is no run but holds files that one would replace."""
    if (workdir / "config.json").exists():
        return
    foreign = [name for name in ("report.html", "curves.png", "summary.json", "eval") if (workdir / name).exists()]
    history = workdir / "history.csv"  # which a start that was cut off leaves, too
    if history.exists() and not history.read_bytes().startswith(",".join(HISTORY).encode()):
        foreign.append(history.name)
    if foreign:
        raise CheckpointError(f"{workdir} holds {', '.join(foreign)} but no run; nothing is overwritten: name another --workdir, such as "
                              f"--workdir={workdir / 'run'}")  # fmt: skip


@contextlib.contextmanager
def begun(workdir: Path) -> Iterator[None]:
    """Around the start of work: where it ends in an error, the directories that were made for it and are empty are removed."""
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps others from training in the directory meanwhile. The lock of a process that has died is free.

    Where an error comes before `claim`, a directory that was made for it is gone afterwards, with what is in it, but for a list of
    files that could not be read.

    Raises:
        CheckpointError: the directory cannot be written, or another process is at work.
    """
    fresh = not workdir.exists()
    with begun(workdir), _locked(workdir):
        try:
            yield
        except BaseException:
            if fresh and not (workdir / "config.json").exists():
                _remove_start(workdir)
            raise


def _remove_start(workdir: Path) -> None:
    """Removes what a start that failed has written; to be called by who holds the lock."""
    with contextlib.suppress(OSError):
        if (workdir / "quarantine.csv").exists() and len((workdir / "quarantine.csv").read_text().splitlines()) == 1:
            (workdir / "quarantine.csv").unlink()
        for name in (".lock", "splits.csv", "history.csv", "metrics.jsonl", "network.json"):
            (workdir / name).unlink(missing_ok=True)
        (workdir / "checkpoints").rmdir()


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    check_writable(workdir, "use another --workdir")
    with open(workdir / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(f"{workdir} is in use by another run ({file.read().strip()}); wait until it ends, or use "
                                  "another --workdir") from None  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems have no locks
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def claim(workdir: Path, config) -> None:
    """Makes the directory this config's, once its data is there."""
    path = workdir / "config.json"
    if not path.exists():
        write_text(path, config_lib.to_json(config) + "\n")


def finished(workdir: Path, config) -> tuple[dict, dict] | None:
    """The summary and the config of the run of this config that has come to its end in the directory, else None.

    Raises:
        CheckpointError: the directory holds a run with another config.
    """
    path = workdir / "summary.json"
    summary = read_json(path) if path.exists() else {}
    ended = summary.get("stopped") in ("finished", "early")
    path = workdir / "config.json"
    held = read_json(path) if ended or path.exists() else {}
    if held:
        changed = config_lib.differences(held, json.loads(config_lib.to_json(config)))
        if changed:
            held = "finished run" if ended else "run"
            same = "; a finished run is not trained further" if ended else ", or the same config to continue it"
            more = f"; and {len(changed) - 10} more" if len(changed) > 10 else ""
            raise CheckpointError(f"{workdir} holds a {held} with another config ({'; '.join(changed[:10])}{more}); "
                                  f"use another --workdir{same}")  # fmt: skip
    return (summary, held) if ended else None


class History:
    """`history.csv`, a row per epoch, and `metrics.jsonl`, a row per logged step and evaluation.

    Args:
        workdir: the run directory.
        step: the step at which the run goes on; rows after it belong to work that was lost, and are dropped.
        averaged: the validation columns are of averaged weights; `RAW` columns of the others follow.
    """

    def __init__(self, workdir: Path, step: int, *, averaged: bool = False):
        self.columns = HISTORY + RAW if averaged else HISTORY
        self._csv, self._jsonl = workdir / "history.csv", workdir / "metrics.jsonl"
        self.rows = [row for row in read_history(workdir) if row["step"] <= step]
        self._write()
        kept = []
        if self._jsonl.exists():
            for line in self._jsonl.read_text(encoding="utf-8").splitlines(keepends=True):
                # A line cut short by a crash is after the last checkpoint by construction.
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
        write_text(self._jsonl, "".join(kept))
        self._log = open(self._jsonl, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Adds a row of `HISTORY`."""
        self.rows.append(dict(row))
        self._write()

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; it has a "step"."""
        self._log.write(json.dumps(row) + "\n")
        self._log.flush()

    def sync(self) -> None:
        """Brings what was logged to the disk, before a checkpoint that will not log it again."""
        os.fsync(self._log.fileno())

    def close(self) -> None:
        self._log.close()

    def _write(self) -> None:
        lines = [",".join(self.columns), *(",".join(repr(row[name]) for name in self.columns) for row in self.rows)]
        write_text(self._csv, "\n".join(lines) + "\n")


class NoHistory:
    """Stands in where another process writes the files."""

    rows: Sequence[dict] = ()

    def epoch(self, row: Mapping[str, float]) -> None:
        pass

    def log(self, row: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_history(workdir: Path) -> list[dict]:
    """Rows of `history.csv` as numbers; [] where there is none."""
    path = workdir / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def write_rows(path: Path, header: Sequence[str], rows) -> None:
    """A CSV file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
