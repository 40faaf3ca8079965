"""Breaks training runs at random moments and compares what they end with to a run that nobody disturbed.

    python tests/faults.py --trials=200 --seed=0 [--only=kill] [--jobs=2] [--minutes=30]

A trial starts `launch.py` as a child process, breaks it as one of `FAULTS` says, puts right what was broken, repeats the same
command until it is done, and compares every number, bit for bit. A difference, a traceback, an exit code that says
something else, a process or shared memory left behind: each is a loss. One line per trial, and at the end a table.
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from drawn_images import write_folder
from training_tools import ROOT, child_environment, network_of

from cnnjax import checkpoints, models, runtime
from cnnjax import config as config_lib
from cnnjax.runs import RunDirectory
from cnnjax.training import optimizers, state

# Everything that has state. With these numbers the best epoch is the first, the learning rate drops twice and patience
# ends the run after the fourth, so that none of the three may be forgotten on the way.
# Apart from those of other tests: a process that is killed may leave half a file.
COMPILED = tempfile.TemporaryDirectory(prefix="cnnjax-faults-")
SETTINGS = {
    "data.batch_size": 8,
    "data.group": r"^C\d+",
    "data.positive": "Parasitized",
    "split.method": "grouped",
    "image.size": 16,
    "model.channels": "4,8",
    "model.convs": 1,
    "model.dense": 16,
    "model.norm": "batch",
    "model.dropout_dense": 0.3,
    "augment.flip_horizontal": True,
    "augment.rotation": 20,
    "augment.mixup": 0.2,
    "train.epochs": 4,
    "train.patience": 3,
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
STEPS, LINES = 32, 36  # of a whole run: updates, and rows of metrics.jsonl
LAST_EPOCH = "4/4"  # is said when only the evaluation is left
CLOCK = ("seconds", "images_per_second")  # what may differ, in any file
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
                env={**child_environment(), "JAX_COMPILATION_CACHE_DIR": COMPILED.name, **self.environment},
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


# What a run ends with


def outcome(workdir: Path) -> dict[str, str]:
    """Every number that a run leaves and that no clock has made, by name, as text; arrays by the digest of their bytes."""
    found = {}
    with open(workdir / "history.csv", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            found[f"history/{number}"] = str({k: v for k, v in row.items() if k not in CLOCK})
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines()):
        found[f"metrics/{number}"] = str({k: v for k, v in json.loads(line).items() if k not in CLOCK})
    summary = json.loads((workdir / "summary.json").read_text())
    for key in ("best_step", "steps", "epochs", "stopped", "train", "val", "test", "classes", "parameters"):
        found[f"summary/{key}"] = str(summary[key])
    found["splits"] = hashlib.sha256((workdir / "splits.csv").read_bytes()).hexdigest()
    found["quarantine"] = (workdir / "quarantine.csv").read_text()
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        for name, step in (("last", saved.latest()), ("best", saved.best())):
            found |= {f"{name}/{key}": value for key, value in contents(workdir, saved, step).items()}
    return found


@functools.cache
def abstract(config: str):
    """The training state of a config.json, without numbers."""
    config = config_lib.from_dict(json.loads(config))
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(
        config.optimizer, optimizers.make_schedule(config.optimizer, STEPS // 4, config.train.epochs)
    )
    shapes = jax.eval_shape(lambda: state.initial(network, tx, ema=bool(config.train.ema_decay)))
    return models.with_shardings(shapes, runtime.mesh(1))


def contents(workdir: Path, saved: checkpoints.Checkpoints, step: int) -> dict[str, str]:
    """A checkpoint as `outcome` has it."""
    shapes = abstract((workdir / "config.json").read_text())
    restored = saved.restore(step, shapes.trees())
    found = {
        "step": str(restored.step),
        "data": str({"next_index": restored.next_index}),
        "sealed": str((workdir / "checksums" / f"{step}.json").exists()),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.TrainState.of(restored.trees)):
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    early = restored.metadata["early"]
    found["early"] = str({key: early[key] for key in ("evaluated", "best_loss", "best_step", "wait", "drop_wait")})
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first names whose values differ, with both values; "" where none do."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return "; ".join(
        [f"{name}: {expected.get(name)} -> {found.get(name)}" for name in names[:3]] + [f"{len(names)} in all"] * bool(names)
    )


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


# Faults


def kill(trial):
    trial.break_with(signal.SIGKILL, any_moment(trial.rng), {KILLED, 0})


def kill_repeatedly(trial):
    for _ in range(3):
        moment = any_moment(trial.rng) if logged(trial) == 0 else seconds(trial.rng.uniform(2.0, 5.0))
        trial.break_with(signal.SIGKILL, moment, {KILLED, 0})


def kill_while_saving(trial):
    """The first checkpoint, or any later one, is being written, renamed or sealed."""
    in_training(trial.rng)(trial, process := trial.start())
    there(lambda t: t.workdir / "checkpoints", "*", trial.rng.uniform(0.0, 0.1))(trial, process)
    process.kill()
    trial.end(process, {KILLED, 0})


def kill_in_final_evaluation(trial):
    trial.break_with(signal.SIGKILL, heard(LAST_EPOCH, trial.rng.uniform(0.0, 2.5)), {KILLED, 0})


def term(trial):
    trial.break_with(signal.SIGTERM, in_training(trial.rng), {STOPPED, 0})


def term_repeatedly(trial):
    for count in sorted(trial.rng.sample(range(1, LINES - 3), 3)):
        trial.break_with(signal.SIGTERM, lines(count), {STOPPED, 0})


def term_then_kill(trial):
    """The grace of a scheduler has ended."""
    process = trial.start()
    in_training(trial.rng)(trial, process)
    process.terminate()
    wait_until(lambda: process.poll() is not None, trial.rng.uniform(0.0, 0.4))
    process.kill()
    trial.end(process, {STOPPED, KILLED, 0})


def term_group(trial):
    trial.break_with(signal.SIGTERM, in_training(trial.rng), {STOPPED, 0}, group=True)


def term_in_import(trial):
    """Before the imports nobody listens yet, and the system ends the process."""
    trial.break_with(signal.SIGTERM, seconds(trial.rng.uniform(0.0, 2.5)), {STOPPED, -signal.SIGTERM, 0})


def term_in_compilation(trial):
    trial.break_with(signal.SIGTERM, heard("steps of", trial.rng.uniform(0.0, 1.0)), {STOPPED, 0})


def term_in_decoding(trial):
    trial.cache = trial.root / "cache"
    trial.break_with(signal.SIGTERM, there(lambda t: t.cache / "decoded", "building-*"), {STOPPED, 0})


def term_in_final_evaluation(trial):
    trial.break_with(signal.SIGTERM, heard(LAST_EPOCH, trial.rng.uniform(0.0, 1.5)), {STOPPED, 0})


def interrupt(trial):
    trial.break_with(signal.SIGINT, in_training(trial.rng), {STOPPED, 0})


def interrupt_in_import(trial):
    trial.break_with(signal.SIGINT, seconds(trial.rng.uniform(0.0, 2.5)), {STOPPED, 130, -signal.SIGINT, 0})


def interrupt_twice(trial):
    process = trial.start()
    in_training(trial.rng)(trial, process)
    process.send_signal(signal.SIGINT)
    time.sleep(trial.rng.uniform(0.0, 0.3))
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    trial.end(process, {STOPPED, 130, 0})
    readable(trial)


def readable(trial):
    """The newest checkpoint, where there is one, can be loaded."""
    if (trial.workdir / "checkpoints").is_dir():
        with checkpoints.Checkpoints(RunDirectory(trial.workdir)) as saved:
            if saved.latest() is not None:
                contents(trial.workdir, saved, saved.latest())


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


def full_disk(trial):
    """The file system of the run directory is full, and stays full when somebody tries again."""
    with mounted(trial.workdir, trial.rng.choice([trial.rng.randint(4, 200), trial.rng.randint(200, 1000)])):
        for _ in range(trial.rng.randint(1, 2)):
            done = trial.end(trial.start(), {REFUSED, 0})
            if done.code and not ("No space left" in done.err or "no space left" in done.err):
                raise Loss(f"the line does not name the full disk: {done.err}")
        mount("-o", "remount,size=64m", trial.workdir)
        trial.finish()


def full_cache_disk(trial):
    trial.cache = trial.root / "cache"
    with mounted(trial.cache, trial.rng.choice([4, 8, 16, 40, 72])):
        done = trial.end(trial.start(), {REFUSED})
        if "no space left" not in done.err or "cache_dir" not in done.err:
            raise Loss(f"the line does not name the full disk: {done.err}")
        mount("-o", "remount,size=64m", trial.cache)
        trial.finish()


def read_only(trial):
    """Refuses to open or rename from now on; open files stay writable, as the system has it."""
    with mounted(trial.workdir, 65536):
        process = trial.start()
        any_moment(trial.rng)(trial, process)
        aside = trial.root / "read-only"
        aside.mkdir()
        mount("--bind", trial.workdir, aside)
        try:
            mount("-o", "remount,bind,ro", aside)
            mount("--bind", aside, trial.workdir)
            done = trial.end(process, {REFUSED, 0})
            if done.code and "ead-only" not in done.err:
                raise Loss(f"the line does not name the file system: {done.err}")
            if trial.rng.random() < 0.5:
                trial.end(trial.start(), {REFUSED, 0})
        finally:
            trial.close()
            for path in (trial.workdir, aside):
                subprocess.run(["umount", "-l", path], check=True)
        trial.finish()


def damage(path: Path, rng: random.Random) -> str:
    """Truncates, flips a byte of, empties or removes a file; returns which."""
    kind = rng.choice(["truncated", "flipped", "emptied", "removed"])
    content = bytearray(path.read_bytes())
    if kind == "removed":
        path.unlink()
        return kind
    if kind == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        del content[0 if kind == "emptied" else rng.randrange(len(content)) :]
    path.write_bytes(content)
    return kind


def damaged_checkpoint(trial):
    if trial.break_with(signal.SIGTERM, in_training(trial.rng, first=7), {STOPPED, 0}).code == 0:
        return
    newest = trial.newest()
    chosen = trial.rng.choice(sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size))
    how = f"{chosen.relative_to(trial.workdir)} {damage(chosen, trial.rng)}"
    trial.said.append(how)
    out = trial.finish()
    if f"checkpoint {newest.name}" not in out or "the one before is used" not in out:
        raise Loss(f"{how}, and no message: {out}")


def damaged_checksums(trial):
    trial.break_with(signal.SIGTERM, in_training(trial.rng, first=7), {STOPPED, 0})
    chosen = trial.rng.choice(sorted((trial.workdir / "checksums").glob("*.json")))
    trial.said.append(f"{chosen.name} {damage(chosen, trial.rng)}")


def own_data(trial):
    """A copy of the images that this trial may break; with the same times, so that the cache is the shared one."""
    copy = trial.root / trial.data.name
    (shutil.copytree if trial.data.is_dir() else shutil.copy2)(trial.data, copy)
    trial.data = copy


def data_vanishes(trial):
    """While it runs: everything that is needed is in the cache."""
    own_data(trial)
    away = trial.root / "away"
    process = trial.start()
    trial.rng.choice([heard("steps of"), in_training(trial.rng), heard(LAST_EPOCH)])(trial, process)
    trial.data.rename(away)
    trial.end(process, {0})
    away.rename(trial.data)


def data_is_gone_at_restart(trial):
    own_data(trial)
    trial.break_with(trial.rng.choice([signal.SIGTERM, signal.SIGKILL]), in_training(trial.rng), {STOPPED, KILLED, 0})
    away = trial.root / "away"
    trial.data.rename(away)
    line = trial.end(trial.start(), {REFUSED, 0}).err
    if line and "no such folder or archive" not in line:
        raise Loss(f"the line does not name the data: {line}")
    away.rename(trial.data)


def corrupt_image(trial):
    """A good image gives way to a bad one after it was cached, and comes back."""
    trial.data = trial.site.folder
    own_data(trial)
    process = trial.start()
    lines(trial.rng.randint(1, LINES - 4))(trial, process)
    chosen = trial.rng.choice(sorted(trial.data.rglob("*.png")))
    content, facts = chosen.read_bytes(), chosen.stat()
    chosen.write_bytes(content[: trial.rng.randrange(len(content) // 2)])
    if trial.rng.random() < 0.5 and process.poll() is None:
        process.terminate()
    ended = trial.end(process, {STOPPED, 0})
    again = trial.end(trial.start(), {REFUSED, 0})
    if ended.code == STOPPED and chosen.name not in again.err:
        raise Loss(f"the line does not name {chosen.name}: {again.err}")
    chosen.write_bytes(content)
    os.utime(chosen, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def clock_jumps(trial):
    """time.time goes back and forth by up to a day; what measures durations does not."""
    site = trial.root / "clock"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import random, time\n"
        f"now, rng = time.time, random.Random({trial.rng.random()})\n"
        "time.time = lambda: now() + rng.choice((0, -3600, -86400, -3.5, 3600, 86400))\n"
    )
    trial.environment["PYTHONPATH"] = os.pathsep.join([str(site), child_environment()["PYTHONPATH"]])
    if trial.rng.random() < 0.7:
        trial.break_with(signal.SIGTERM, in_training(trial.rng), {STOPPED, 0})


def two_runs(trial):
    """The second is told, the first does not notice."""
    first = trial.start()
    trial.rng.choice([heard("on 1 x"), in_training(trial.rng), seconds(0.0)])(trial, first)
    second = trial.start()
    codes = {trial.end(first, {REFUSED, 0}).code, trial.end(second, {REFUSED, 0}).code}
    errors = [error for process in (first, second) if (error := trial.output(process)[1])]
    if 0 not in codes or any(f"{trial.workdir} is in use by another run (process " not in error for error in errors):
        raise Loss(f"exit codes {codes}: {errors}")


def stale_lock(trial):
    trial.break_with(signal.SIGKILL, in_training(trial.rng), {KILLED, 0})
    if not (trial.workdir / ".lock").exists():
        raise Loss("there was no lock")


def diverges(trial):
    """A loss that is not a number; the last checkpoint can be loaded, the same command says the same again."""
    trial.settings = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e30, "optimizer.schedule": "constant",
                      "optimizer.warmup_epochs": 0.0, "train.checkpoint_every": trial.rng.choice(["1 steps", "3 steps"])}  # fmt: skip
    for _ in range(2):
        line = trial.end(trial.start(), {REFUSED}).err
        for part in ("the loss is ", " at step ", "checkpoint", "--config.optimizer.learning_rate", "--workdir"):
            if part not in line:
                raise Loss(f"{part!r} is not in the line: {line}")
    readable(trial)
    trial.compared = True  # there is nothing to compare with


def damaged_cache(trial):
    """Decoded images that are shorter than they were, or without their facts."""
    trial.cache = trial.root / "cache"
    shutil.copytree(trial.site.cache, trial.cache)
    if trial.rng.random() < 0.5:
        trial.break_with(signal.SIGTERM, in_training(trial.rng), {STOPPED, 0})
    for path in sorted((trial.cache / "decoded").glob("*/*")):
        if path.name == "images.npy" or trial.rng.random() < 0.3:
            with open(path, "r+b") as file:
                file.truncate(trial.rng.randrange(path.stat().st_size))


FAULTS: dict[str, Callable[[Trial], None]] = {
    fault.__name__: fault
    for fault in (kill, kill_repeatedly, kill_while_saving, kill_in_final_evaluation, stale_lock, term, term_repeatedly,
                  term_group, term_then_kill, term_in_import, term_in_compilation, term_in_decoding,
                  term_in_final_evaluation, interrupt, interrupt_in_import, interrupt_twice, full_disk, full_cache_disk,
                  read_only, damaged_checkpoint, damaged_checksums, damaged_cache, data_vanishes, data_is_gone_at_restart,
                  corrupt_image, clock_jumps, two_runs, diverges)
}  # fmt: skip


def run_trial(site: Site, fault: str, seed: int) -> str:
    """Runs one trial; returns how its launches ended. Raises Loss or Skip. The directory of a loss is kept."""
    trial = Trial(site, random.Random(f"{fault} {seed}"), f"{fault}-{seed}")
    memory = shared_memory()
    try:
        FAULTS[fault](trial)
        if not trial.compared:
            trial.finish()
        if not wait_until(lambda: not ownerless(memory), 2.0):
            raise Loss(f"left in /dev/shm: {ownerless(memory)}")
    except Loss as loss:
        raise Loss(f"{loss}\n    launches: {trial.said}\n    files: {trial.root}") from None
    finally:
        trial.close()
    shutil.rmtree(trial.root)
    return " | ".join(text.replace(str(trial.root), "") for text in trial.said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"faults whose names begin so, with commas: {', '.join(FAULTS)}")
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after so many no further trial is begun")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    names = [name for name in FAULTS if name.startswith(tuple(options.only.split(",")))]
    if not names:
        parser.error(f"no fault {options.only!r}; there are {', '.join(FAULTS)}")
    trials, losses, skipped = collections.Counter(), collections.Counter(), collections.Counter()
    printing = threading.Lock()
    root = Path(tempfile.mkdtemp(prefix="cnnjax-faults-"))
    site = Site(root)

    def one(number: int) -> None:
        fault, seed = names[number % len(names)], options.seed + number
        start = time.monotonic()
        if start > end:
            return
        try:
            counted, text = trials, f"ok    {run_trial(site, fault, seed)}"
        except Skip as reason:
            counted, text = skipped, f"skip  {reason}"
        except Loss as loss:
            counted, text = losses, f"LOSS  {loss}"
        except Exception:  # of a checkpoint that cannot be loaded, say
            counted, text = losses, f"LOSS  {traceback.format_exc()}"
        with printing:
            counted[fault] += 1
            print(f"{fault:<24} {seed:>4} {time.monotonic() - start:>6.1f} s  {text}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, range(options.trials)))
    print(f"\n{'fault':<26} {'trials':>6} {'losses':>6} {'skipped':>7}")
    for name in names:
        print(f"{name:<26} {trials[name] + losses[name]:>6} {losses[name]:>6} {skipped[name]:>7}")
    print(f"{'all':<26} {trials.total() + losses.total():>6} {losses.total():>6} {skipped.total():>7}")
    if losses.total():
        print(f"\nwhat the losses left is in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
