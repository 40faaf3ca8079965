"""The faults: each breaks a trial in one way, and puts right what it broke."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from fault_trials import (
    KILLED,
    LAST_EPOCH,
    LINES,
    REFUSED,
    STOPPED,
    Loss,
    Trial,
    any_moment,
    heard,
    in_training,
    lines,
    logged,
    mount,
    mounted,
    seconds,
    there,
    wait_until,
)
from outcomes import contents
from training_tools import child_environment

from cnnjax import checkpoints
from cnnjax.runs import RunDirectory


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
