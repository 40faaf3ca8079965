"""The directory of a run: the name of every file, claimed by one config, one writer at a time."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from cnnjax import config as config_lib
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.runs.files import check_writable, read_json, write_json, write_text
from cnnjax.runs.history import HISTORY, read_history
from cnnjax.runs.results import Evaluation, Summary

ENDED = ("finished", "early")  # what `stopped` of a summary says of a run that has come to its end


class RunDirectory:
    """The files of one run. No other place knows their names.

    Attributes:
        path: the directory.
        config: `config.json`, whose presence says that a run lives here.
        summary: `summary.json`, a `Summary`.
        history: `history.csv`, a row per epoch.
        metrics: `metrics.jsonl`, a row per logged step and per evaluation.
        splits: `splits.csv`, the split of every image.
        quarantine: `quarantine.csv`, the files that were left out and why.
        network_table: `network.json`, the layers.
        network_picture: `network.png`, the layers drawn.
        curves: `curves.png`, the history drawn.
        report: `report.html`.
        exploration: `explore.html`.
        exploration_pictures: `explore/`, its pictures.
        rates: `lr_find.png`, the loss over the learning rate.
        tensorboard: `tensorboard/`, event files.
        evaluations: `eval/`.
        checkpoints: `checkpoints/`, a directory per step.
        checksums: `checksums/`, a file per checkpoint.
        damaged: `damaged/`, checkpoints that were set aside.
        lock: `.lock`, held by the process that trains.
    """

    def __init__(self, path: "str | os.PathLike[str] | RunDirectory"):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.summary = self.path / "summary.json"
        self.history = self.path / "history.csv"
        self.metrics = self.path / "metrics.jsonl"
        self.splits = self.path / "splits.csv"
        self.quarantine = self.path / "quarantine.csv"
        self.network_table = self.path / "network.json"
        self.network_picture = self.path / "network.png"
        self.curves = self.path / "curves.png"
        self.report = self.path / "report.html"
        self.exploration = self.path / "explore.html"
        self.exploration_pictures = self.path / "explore"
        self.rates = self.path / "lr_find.png"
        self.tensorboard = self.path / "tensorboard"
        self.evaluations = self.path / "eval"
        self.checkpoints = self.path / "checkpoints"
        self.checksums = self.path / "checksums"
        self.damaged = self.path / "damaged"
        self.lock = self.path / ".lock"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def evaluation(self, name: str) -> Path:
        """`eval/<name>.json`, an `Evaluation`."""
        return self.evaluations / f"{name}.json"

    def predictions(self, name: str) -> Path:
        """`eval/<name>.csv`, a row per image."""
        return self.evaluations / f"{name}.csv"

    def thumbnails(self, name: str) -> Path:
        """`eval/<name>-images/`, the images that are worth a look."""
        return self.evaluations / f"{name}-images"

    # Typed contents

    def read_summary(self) -> Summary | None:
        """Returns the summary; None where there is none. Raises CheckpointError for a damaged one."""
        return self.expect_summary() if self.summary.exists() else None

    def expect_summary(self) -> Summary:
        """Returns the summary. Raises CheckpointError where there is none, or a damaged one."""
        return _record(Summary, self.summary)

    def write_summary(self, summary: Summary) -> None:
        """Writes `summary.json`."""
        write_json(self.summary, summary.to_dict())

    def read_evaluation(self, name: str) -> Evaluation | None:
        """Returns an evaluation; None where there is none. Raises CheckpointError for a damaged one."""
        path = self.evaluation(name)
        return _record(Evaluation, path) if path.exists() else None

    def write_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Writes `eval/<name>.json`."""
        write_json(self.evaluation(name), evaluation.to_dict())

    def read_history(self) -> list[dict]:
        """Returns the rows of `history.csv`; [] where there is none."""
        return read_history(self.history)

    # Whose it is

    def is_run(self) -> bool:
        """Returns whether a run has claimed the directory."""
        return self.config.exists()

    def has_ended(self) -> bool:
        """Returns whether a run has come to its end here."""
        return self.summary.exists() and read_json(self.summary).get("stopped") in ENDED

    def claim(self, config) -> None:
        """Makes the directory this config's, once its data is there; of a run that gets more epochs, it notes these."""
        if not self.is_run():
            write_text(self.config, config_lib.to_json(config) + "\n")
            return
        held = read_json(self.config)
        if held["train"]["epochs"] < config.train.epochs:
            held["train"]["epochs"] = config.train.epochs
            if (summary := self.read_summary()) and summary.stopped in ENDED:
                self.write_summary(dataclasses.replace(summary, stopped="signal"))  # first: it has not come to that end
            write_text(self.config, json.dumps(held, indent=2) + "\n")

    def finished(self, config) -> tuple[Summary, dict] | None:
        """Returns the summary and the config of the run of this config that has come to its end here, else None.

        More epochs are a new end, which a run has not come to.

        Raises:
            CheckpointError: the directory holds a run with another config.
        """
        summary = read_json(self.summary) if self.summary.exists() else {}
        ended = summary.get("stopped") in ENDED
        held = read_json(self.config) if ended or self.is_run() else {}
        if held:
            changed = config_lib.differences(held, json.loads(config_lib.to_json(config)))
            if held["train"]["epochs"] < config.train.epochs and len(changed) == 1:
                ended = False
            elif changed:
                kind = "finished run" if ended else "run"
                same = (
                    ", or a higher --config.train.epochs alone to train it further"
                    if ended
                    else ", or the same config to continue it"
                )
                more = f"; and {len(changed) - 10} more" if len(changed) > 10 else ""
                raise CheckpointError(f"{self} holds a {kind} with another config ({'; '.join(changed[:10])}{more}); "
                                      f"use another --workdir{same}")  # fmt: skip
        return (self.expect_summary(), held) if ended else None

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
        with begun(self.path), self._locked():
            try:
                yield
            except BaseException:
                if fresh and not self.is_run():
                    self._remove_start()
                raise

    def _remove_start(self) -> None:
        """Removes what a start that failed has written. The caller holds the lock."""
        with contextlib.suppress(OSError):
            if self.quarantine.exists() and len(self.quarantine.read_text().splitlines()) == 1:
                self.quarantine.unlink()
            for path in (self.lock, self.splits, self.history, self.metrics, self.network_table):
                path.unlink(missing_ok=True)
            self.checkpoints.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        check_writable(self.path, "use another --workdir")
        with open(self.lock, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise CheckpointError(f"{self} is in use by another run ({file.read().strip()}); wait until it ends, or use "
                                      "another --workdir") from None  # fmt: skip
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems have no locks
                    raise
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield


def _record(kind, path: Path):
    tree = read_json(path)
    try:
        return kind.from_dict(tree)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or use another --workdir") from None


@contextlib.contextmanager
def begun(directory: Path) -> Iterator[None]:
    """Surrounds the start of work. After an error, the empty directories that were made for it are removed."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
