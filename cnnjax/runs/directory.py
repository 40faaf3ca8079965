"""The directory of a run: its files with their checksums, claimed by one config, one writer at a time."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax import config as config_lib
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.inside import inside
from cnnjax.runs.exclusive import begun, locked
from cnnjax.runs.files import damaged_line, read_json, read_rows, write_json, write_rows
from cnnjax.runs.history import HISTORY, read_history
from cnnjax.runs.places import Places
from cnnjax.runs.results import Evaluation, Layer, Summary
from cnnjax.runs.sealed import SealedFiles

ENDED = ("finished", "early")  # what `stopped` of a summary says of a run that has come to its end


class RunDirectory(Places):
    """The files of one run: what they hold, whose they are, who writes them. `Places` has their names.

    Attributes:
        path: the directory.
        sealed: checksums of its small files.
    """

    def __init__(self, path: "str | os.PathLike[str] | RunDirectory"):
        self.path = Path(path)
        self.sealed = SealedFiles(self.path, type(self).checksums.name)

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    # Contents. What is written has a checksum, which is compared before it is read.

    def write_json(self, path: Path, value: Any) -> None:
        """Writes one of the run's JSON files."""
        write_json(path, value, self.sealed.replacing)

    def write_rows(self, path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
        """Writes one of the run's tables."""
        write_rows(path, header, rows, self.sealed.replacing)

    def read_json(self, path: Path) -> Any:
        """Returns the value of one of the run's JSON files. Raises CheckpointError for a missing or a changed one."""
        self.sealed.check(path)
        return read_json(path)

    def read_rows(self, path: Path) -> Iterator[list[str]]:
        """Yields the rows of one of the run's tables, the header first; nothing where there is none.

        Raises:
            CheckpointError: it was changed.
        """
        self.sealed.check(path)
        if path.exists():
            yield from read_rows(path)

    def read_config(self) -> dict[str, Any]:
        """Returns the tree of `config.json`, with the default of a key that it lacks.

        Raises:
            CheckpointError: it is missing, damaged or was changed.
        """
        try:
            return config_lib.completed(self.read_json(self.config))
        except ConfigError as error:
            raise CheckpointError(damaged_line(self.config, error)) from None

    def keep_settings(self, values: Mapping[str, Any]) -> None:
        """Writes values by "section.key" to `config.json`, those that a finished run may change."""
        tree = self.read_config() if values else {}
        for key, value in values.items():
            section, _, name = key.partition(".")
            tree[section][name] = value
        if values:
            self.write_json(self.config, tree)

    def read_summary(self) -> Summary | None:
        """Returns the summary; None where there is none. Raises CheckpointError for a damaged one."""
        return self.expect_summary() if self.summary.exists() else None

    def expect_summary(self) -> Summary:
        """Returns the summary. Raises CheckpointError where there is none, or a damaged one."""
        return self._record(Summary, self.summary)

    def write_summary(self, summary: Summary) -> None:
        """Writes `summary.json`."""
        self.write_json(self.summary, summary.to_dict())

    def read_evaluation(self, name: str) -> Evaluation | None:
        """Returns an evaluation; None where there is none. Raises CheckpointError for a damaged one."""
        return self.read_record(Evaluation, self.evaluation(name))

    def write_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Writes `eval/<name>.json`."""
        self.write_json(self.evaluation(name), evaluation.to_dict())

    def read_history(self) -> list[dict]:
        """Returns the rows of `history.csv`; [] where there is none. Raises CheckpointError for a damaged one."""
        self.sealed.check(self.history)
        return read_history(self.history)

    def read_network(self) -> list[Layer]:
        """Returns the rows of `network.json`; [] where there is none. Raises CheckpointError for a damaged one."""
        self.sealed.check(self.network_table)
        if not self.network_table.exists():
            return []
        rows = self.read_json(self.network_table)
        if not isinstance(rows, list):
            raise CheckpointError(damaged_line(self.network_table, "not a list"))
        return [_record(Layer, self.network_table, row) for row in rows]

    def read_record(self, kind, path: Path):
        """Returns the record that a JSON file holds; None where there is no such file, and no checksum says that there was one.

        Args:
            kind: a class with `from_dict`.
            path: one of the run's files, which may be a stranger's.

        Raises:
            CheckpointError: the file is damaged, was changed or removed, or holds another record.
        """
        self.sealed.check(path)
        return self._record(kind, path) if path.exists() else None

    def _record(self, kind, path: Path):
        return _record(kind, path, self.read_json(path))

    def set_aside(self, path: Path) -> Path:
        """Moves a file that cannot be used to `damaged/`; returns where it is."""
        aside = inside(self.path, f"{RunDirectory.damaged.name}/{path.name}-{time.time_ns()}")
        aside.parent.mkdir(exist_ok=True)
        os.replace(path, aside)
        self.sealed.forget(path)
        return aside

    # Whose it is

    def is_run(self) -> bool:
        """Returns whether a run has claimed the directory."""
        return self.config.exists()

    def has_ended(self) -> bool:
        """Returns whether a run has come to its end here."""
        summary = self.read_summary()
        return summary is not None and summary.stopped in ENDED

    def claim(self, config) -> None:
        """Makes the directory this config's, once its data is there; of a run that gets more epochs, it notes these."""
        self.sealed.seal(self.splits)  # of the user's own too
        if not self.is_run():
            self.write_json(self.config, json.loads(config_lib.to_json(config)))
            return
        held = self.read_config()
        if held["train"]["epochs"] < config.train.epochs:
            held["train"]["epochs"] = config.train.epochs
            if (summary := self.read_summary()) and summary.stopped in ENDED:
                self.write_summary(dataclasses.replace(summary, stopped="signal"))  # first: it has not come to that end
            self.write_json(self.config, held)

    def finished(self, config) -> tuple[Summary, dict] | None:
        """Returns the summary and the config of the run of this config that has come to its end here, else None.

        More epochs are a new end, which a run has not come to.

        Raises:
            CheckpointError: the directory holds a run with another config.
        """
        summary = self.read_summary()
        ended = summary is not None and summary.stopped in ENDED
        held = self.read_config() if ended or self.is_run() else {}
        if held:
            changed = config_lib.differences(held, json.loads(config_lib.to_json(config)))
            if held["train"]["epochs"] < config.train.epochs and len(changed) == 1:
                ended = False
            elif changed:
                kind = "finished run" if ended else "run"
                same = ", or the same config to continue it"
                if ended:
                    longer = ", or a higher --config.train.epochs alone to train it further"
                    same = longer if config.train.method == "gradient" else ""
                more = f"; and {len(changed) - 10} more" if len(changed) > 10 else ""
                raise CheckpointError(f"{self} holds a {kind} with another config ({'; '.join(changed[:10])}{more}); "
                                      f"use another --workdir{same}")  # fmt: skip
        return (summary, held) if summary and ended else None

    def check_apart(self, config) -> None:
        """Raises ConfigError where the directory is, or is in, the folder of the images: it would become part of the data."""
        if config.data.source != "files" or not config.data.path:
            return
        data = Path(config.data.path).expanduser().resolve()
        if data.is_dir() and self.path.resolve().is_relative_to(data):
            raise ConfigError(f"--workdir={self} is in the folder of the images, {data}; name a directory outside of it, such "
                              f"as --workdir={data.parent / f'{data.name}-run'}")  # fmt: skip

    def check_unused(self) -> None:
        """Raises CheckpointError where the directory is not a run but holds files that one would replace."""
        if self.is_run():
            return
        foreign = [path.name for path in (self.report, self.curves, self.summary, self.evaluations) if path.exists()]
        # A start that was cut off leaves a history too.
        if self.history.exists() and not self.history.read_bytes().startswith(",".join(HISTORY).encode()):
            foreign.append(self.history.name)
        if foreign:
            raise CheckpointError(f"{self} holds {', '.join(foreign)} but no run; nothing is overwritten: name another --workdir, such as "
                                  f"--workdir={self.path / 'run'}")  # fmt: skip

    # Who writes it

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from training in the directory meanwhile. The lock of a process that has died is free.

        After an error before `claim`, a directory that was made for the run is removed with its contents. A list of files that
        could not be read stays.

        Raises:
            CheckpointError: the directory cannot be written, or another process is at work.
        """
        fresh = not self.path.exists()
        with begun(self.path), locked(self.path, self.lock):
            try:
                yield
            except BaseException:
                if fresh and not self.is_run():
                    self._remove_start()
                raise

    def _remove_start(self) -> None:
        """Removes what a start that failed has written. The caller holds the lock."""
        with contextlib.suppress(OSError):
            written = [self.lock, self.splits, self.history, self.metrics, self.network_table]
            if self.quarantine.exists() and len(self.quarantine.read_text(encoding="utf-8").splitlines()) == 1:
                written.append(self.quarantine)
            for path in written:
                path.unlink(missing_ok=True)
                self.sealed.forget(path)
            for folder in (self.checkpoints, self.checksums):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _record(kind, path: Path, tree: Any):
    try:
        return kind.from_dict(tree)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(damaged_line(path, error)) from None
