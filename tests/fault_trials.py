"""A trial: one run that is broken at a chosen moment, judged each time that it ends, and compared when it is done."""

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from drawn_images import write_folder
from outcomes import differences, outcome
from training_tools import ROOT, child_environment

# Everything that has state. With these numbers the best epoch is the first, the learning rate drops twice and patience
# ends the run after the fourth, so that none of the three may be forgotten on the way.
SETTINGS = {
    "data.batch_size": 8,
    "data.group": r"^C\d+",
    "data.positive": "Parasitized",
    "split.method": "grouped",
    "image.size": 16,
    "model.name": "convnet",
    "model.channels": "4,8",
    "model.convs": 1,
    "model.dense": 16,
    "model.norm": "batch",
    "model.dropout_dense": 0.3,
    "augment.flip_horizontal": True,
    "augment.rotation": 20,
    "augment.mixup": 0.2,
    "train.epochs": 4,
    "train.scales": "()",
    "train.patience": 3,
    "train.monitor": "val_loss",
    "train.ema_decay": 0.9,
    "train.checkpoint_every": "3 steps",
    "optimizer.schedule": "plateau",
    "optimizer.plateau_patience": 0,
    "optimizer.decay_factor": 0.5,
    "optimizer.warmup_epochs": 0.5,
    "optimizer.learning_rate": 0.03,
    "log.every": 1,
    "runtime.workers": 1,
}
LINES = 36  # of a whole run: rows of metrics.jsonl
LAST_EPOCH = "4/4"  # is said when only the evaluation is left
STOPPED, REFUSED, KILLED = 75, 2, -signal.SIGKILL


class Loss(Exception):
    """Cost of a fault."""


class Skip(Exception):
    """Why this machine cannot produce a fault."""


@dataclasses.dataclass
class Site:
    """Shared by all trials: the images, their cache, compiled programs and the undisturbed run."""

    root: Path
    expected: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.folder, self.archive = self.root / "cells", self.root / "cells.zip"
        self.cache = self.root / "cache"
        self.compiled = (
            self.root / "compiled"
        )  # apart from that of other tests: a process that is killed may leave half a file
        write_folder(self.folder, per_class=48)  # makes the root too
        with zipfile.ZipFile(self.archive, "w") as archive:
            for path in sorted(self.folder.rglob("*.png")):
                archive.write(path, path.relative_to(self.folder))
        # Once stopped, so that what only a continued run compiles is there too, and once for each form of the data.
        for data, stop in ((self.folder, True), (self.archive, False)):
            trial = Trial(self, random.Random(0), f"undisturbed-{data.name}", data)
            if stop:
                trial.break_with(signal.SIGTERM, lines(20), {STOPPED})
            trial.end(trial.start(), {0})
            found = outcome(trial.workdir)
            if self.expected and found != self.expected:
                raise Loss(f"a folder and an archive of it differ: {differences(self.expected, found)}")
            self.expected = found


class Trial:
    """One run, with a directory of its own."""

    def __init__(self, site: Site, rng: random.Random, name: str, data: Path | None = None):
        self.site, self.rng = site, rng
        self.root = site.root / name
        self.root.mkdir()
        self.workdir, self.cache = self.root / "run", site.cache
        self.data = data or rng.choice([site.folder, site.archive])
        self.settings: dict = {}
        self.environment: dict[str, str] = {}
        self.said: list[str] = []  # how each launch ended, for the report of a loss
        self.processes: list[subprocess.Popen] = []
        self.compared = False

    def start(self) -> subprocess.Popen:
        """The command, which is the same each time."""
        values = {**SETTINGS, "data.path": self.data, "data.cache_dir": self.cache, **self.settings}
        flags = [f"--config.{key}={str(value).lower() if value is True else value}" for key, value in values.items()]
        number = len(self.processes)
        with open(self.root / f"{number}.out", "w") as out, open(self.root / f"{number}.err", "w") as err:
            process = subprocess.Popen(
                [sys.executable, "launch.py", "--config=configs/folder.py", *flags, f"--workdir={self.workdir}"],
                env={**child_environment(), "JAX_COMPILATION_CACHE_DIR": str(self.site.compiled), **self.environment},
                cwd=ROOT, stdout=out, stderr=err, start_new_session=True)  # fmt: skip
        self.processes.append(process)
        return process

    def output(self, process: subprocess.Popen) -> tuple[str, str]:
        """Returns the output so far."""
        number = self.processes.index(process)
        return tuple((self.root / f"{number}.{kind}").read_text() for kind in ("out", "err"))

    def end(self, process: subprocess.Popen, codes: set[int]) -> SimpleNamespace:
        """Waits for a launch and judges how it ended."""
        try:
            code = process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            self.said.append("hangs")
            raise Loss(f"hangs; {self.output(process)}") from None
        out, err = self.output(process)
        self.said.append(f"{code}{': ' if err else ''}{err.strip()[:300]}")
        for sign in ("Traceback", "Exception ignored", "Fatal Python error"):
            if sign in out + err:
                raise Loss(f"exit code {code}, {sign}: {err[-1500:]}")
        if code not in codes:
            raise Loss(f"exit code {code} is none of {sorted(codes)}: {err}")
        if code == REFUSED and (len(err.splitlines()) != 1 or not err.startswith("error: ")):
            raise Loss(f"not one line: {err}")
        left = wait_until(lambda: not members(process.pid), 2.0) or members(process.pid)
        if left is not True:
            raise Loss(f"processes left behind: {left}")
        return SimpleNamespace(code=code, out=out, err=err)

    def break_with(self, number: int, moment: Callable, codes: set[int], *, group: bool = False) -> SimpleNamespace:
        """Starts, waits for the moment, sends a signal, and judges the end."""
        process = self.start()
        moment(self, process)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)
        return self.end(process, codes)

    def newest(self) -> Path:
        """The directory of the newest checkpoint."""
        return max(
            (path for path in (self.workdir / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
        )

    def finish(self) -> str:
        """Repeats the command until it is done and compares; returns what the last launch printed."""
        done = self.end(self.start(), {0})
        changed = differences(self.site.expected, outcome(self.workdir))
        if changed:
            raise Loss(f"not as in the undisturbed run: {changed}")
        missing = [name for name in ("report.html", "curves.png", "eval/test.csv") if not (self.workdir / name).exists()]
        if missing:
            raise Loss(f"missing at the end: {missing}")
        self.compared = True
        return done.out

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def members(session: int) -> list[str]:
    """Processes of a session that are alive: "pid name"."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = path.read_text().rpartition(")")
            fields = after.split()  # state, parent, group, session
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(before.replace(" (", " "))
    return found


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def ownerless(before: set[str]) -> set[str]:
    """Shared memory that was not there before and that no living process, such as another program's, has mapped."""
    new = shared_memory() - before
    for path in Path("/proc").glob("[0-9]*/maps") if new else ():
        with contextlib.suppress(OSError):
            mapped = path.read_text()
            new = {name for name in new if f"/dev/shm/{name}" not in mapped}
    return new & shared_memory()


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.003)
    return True


# Moments: wait until it is time to break a process


def logged(trial: Trial) -> int:
    with contextlib.suppress(OSError):
        return (trial.workdir / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def lines(count: int, delay: float = 0.0):
    """Once it trains, and metrics.jsonl has so many rows."""

    def moment(trial, process):
        heard("steps of")(trial, process)
        wait_until(lambda: logged(trial) >= count or process.poll() is not None, 120)
        time.sleep(delay)

    return moment


def seconds(delay: float):
    """So long after the start."""
    return lambda trial, process: wait_until(lambda: process.poll() is not None, delay)


def heard(text: str, delay: float = 0.0):
    """Once it has printed the text."""

    def moment(trial, process):
        wait_until(lambda: text in trial.output(process)[0] or process.poll() is not None, 120)
        time.sleep(delay)

    return moment


def there(path: Callable[[Trial], Path], pattern: str, delay: float = 0.0):
    """Once the directory has a file of a name that it had not before."""

    def moment(trial, process):
        directory = path(trial)
        before = set(directory.glob(pattern))
        wait_until(lambda: set(directory.glob(pattern)) - before or process.poll() is not None, 120)
        time.sleep(delay)

    return moment


def any_moment(rng: random.Random):
    """Somewhere in the life of a run: start, training, saving or the end."""
    return rng.choice([
        seconds(rng.uniform(0.0, 4.0)),
        lines(rng.randint(1, LINES - 1), rng.uniform(0.0, 0.1)),
        lines(rng.randint(1, LINES - 1), rng.uniform(0.0, 0.1)),
        there(lambda t: t.workdir / "checkpoints", "*", rng.uniform(0.0, 0.2)),
        heard(LAST_EPOCH, rng.uniform(0.0, 2.0)),
    ])  # fmt: skip


def in_training(rng: random.Random, first: int = 1):
    return lines(rng.randint(first, LINES - 4), rng.uniform(0.0, 0.1))


# File systems


@contextlib.contextmanager
def mounted(directory: Path, size: int) -> Iterator[None]:
    """A small file system of `size` KiB at a directory."""
    directory.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={size}k", "cnnjax-faults", directory)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def mount(*arguments) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip(f"mounting is not allowed here ({done.stderr.strip()})")
