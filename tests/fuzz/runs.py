"""Damaged run directories: one line that refuses, the numbers of the undamaged run, or a warning; never anything else.

A finished run and an interrupted one are trained once for a session. An attempt copies one of them, damages one file, and asks for one
of these: a report, an evaluation, predictions or, of the interrupted run, the rest of the training.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import os
import pickle
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from drawn_images import write_folder
from fuzz.findings import Finding, told
from fuzz.mutations import cut, flipped, replaced
from outcomes import differences, outcome
from training_tools import tiny

from cnnjax import pages
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.commands.report import write_report
from cnnjax.commands.train import train
from cnnjax.config import Config
from cnnjax.errors import Stopped, UserError
from cnnjax.progress import Progress

SECONDS = 120  # of an attempt, after which its process is ended
DRAWN = ("report.html", "curves.png", "network.png", ".lock")  # no command reads them again
PLACE = "CNNJAX_FUZZ_RUNS"  # environment: the directory of the undamaged runs
OFTEN = {"reported": 4, "evaluated": 3, "predicted": 1, "continued": 1}  # the last takes as long as five others
ROOT = tempfile.TemporaryDirectory(prefix="cnnjax-fuzz-runs-")


class Warned(Progress):
    """Remembers warnings."""

    def __init__(self):
        self.lines: list[str] = []

    def warn(self, text):
        self.lines.append(text)


@dataclasses.dataclass
class Trained:
    """A run that is whole, and how it answers.

    Attributes:
        path: its directory, which nothing changes.
        data: the images.
        config: its config.
        verbs: what is asked of it.
        answers: name of a verb -> its answer.
        warnings: that it gives.
    """

    path: Path
    data: Path
    config: Config
    verbs: tuple[Callable, ...]
    answers: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    warnings: set[str] = dataclasses.field(default_factory=set)


def attempt(rng: random.Random, folder: Path) -> None:
    """Damages one file of a copy below `folder` and judges every command. Raises Finding."""
    trained = rng.choice(site())
    workdir = folder / "run"
    shutil.copytree(trained.path, workdir)
    kind, detail = damage(rng, workdir)
    (folder / "damage.txt").write_text(f"{trained.path.name} run, {kind}: {detail}\n")
    (verb,) = rng.choices(trained.verbs, [OFTEN[verb.__name__] for verb in trained.verbs])
    # Charts take most of the time of a page, and are of numbers that the page has in words too.
    with drawn() if verb is not reported or rng.random() < 0.2 else undrawn():
        judge(trained, verb, workdir, f"{verb.__name__}, {trained.path.name} run, {kind}")


drawn = contextlib.nullcontext


def undrawn():
    """Leaves the charts out of pages; their place in the words of a page is empty anyway."""
    return mock.patch.multiple("cnnjax.pages.report", svg=lambda figure: '<svg viewBox="0 0 9 9"></svg>', rate_curves=lambda *given, **options: [],
                               plots=mock.MagicMock())  # fmt: skip


def judge(trained: Trained, verb: Callable, workdir: Path, kind: str) -> None:
    """Asks a damaged run for one thing. Raises Finding where it neither gives the undamaged answer, warns, nor refuses in one line."""
    progress = Warned()
    try:
        found = verb(trained, workdir, progress)
    except UserError as error:
        if len(str(error).splitlines()) != 1:
            raise Finding(f"{kind}: refused in several lines", f"{error!r}") from error
        return
    except (Exception, SystemExit) as error:
        raise Finding(f"{kind}: {told(error)}", f"{error!r}"[:300]) from error
    other = differences(trained.answers[verb.__name__], found)
    if other and not set(progress.lines) - trained.warnings:
        raise Finding(f"{kind}: another answer without a warning", other[:400])


# Damages: each changes one file, or two, and returns what it did.


def damage(rng: random.Random, workdir: Path) -> tuple[str, str]:
    """Damages one file of a run; returns which kind of file and of damage, and the details."""
    parts = sorted(path for path in workdir.iterdir() if path.name not in DRAWN)
    files = sorted(path for path in workdir.rglob("*") if path.is_file() and path.name not in DRAWN)
    part = rng.choice(parts)  # a checkpoint has many files: each part of a run is damaged as often
    file = rng.choice([path for path in files if path.is_relative_to(part)])
    name = file.relative_to(workdir).as_posix()
    kinds = [bits, bytes_, shorter, none, gone, exchanged]
    with_text = [digit, line_lost, line_twice] if file.suffix in (".csv", ".jsonl", ".json") or "_METADATA" in name else []
    with_text += [value] * 3 if file.suffix == ".json" or "_METADATA" in name else []
    with_text = [kind for kind in with_text if file.stat().st_size]
    kind = rng.choice(kinds + with_text if file.stat().st_size else [gone])
    detail = kind(rng, file, [path for path in files if path != file])
    return f"{re.sub(r'[0-9a-f]{32}|[0-9]+', 'N', name)} {kind.__name__.strip('_')}", f"{name} {detail}"


def bits(rng, file: Path, others) -> str:
    """Turns a bit."""
    file.write_bytes(flipped(rng, file.read_bytes()))
    return "a bit is turned"


def bytes_(rng, file: Path, others) -> str:
    """Replaces bytes."""
    file.write_bytes(replaced(rng, file.read_bytes()))
    return "bytes are replaced"


def shorter(rng, file: Path, others) -> str:
    """Cuts the end off."""
    file.write_bytes(cut(rng, file.read_bytes()))
    return f"is cut to {file.stat().st_size} bytes"


def none(rng, file: Path, others) -> str:
    """Empties the file."""
    file.write_bytes(b"")
    return "is empty"


def gone(rng, file: Path, others) -> str:
    """Deletes the file."""
    file.unlink()
    return "is deleted"


def exchanged(rng, file: Path, others) -> str:
    """Swaps two files."""
    alike = [path for path in others if path.suffix == file.suffix]
    other = rng.choice(alike if alike and rng.random() < 0.7 else others)
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)
    return f"is exchanged with {other.name}"


def digit(rng, file: Path, others) -> str:
    """Changes a digit of a number."""
    data = bytearray(file.read_bytes())
    if not (places := [at for at, byte in enumerate(data) if byte in b"0123456789"]):
        return bits(rng, file, others)
    at = rng.choice(places)
    data[at] = rng.choice([byte for byte in b"0123456789" if byte != data[at]])
    file.write_bytes(data)
    return f"the digit at {at} is changed"


def line_lost(rng, file: Path, others) -> str:
    """Loses a line."""
    lines = file.read_bytes().splitlines(keepends=True)
    number = rng.randrange(len(lines))
    del lines[number]
    file.write_bytes(b"".join(lines))
    return f"line {number + 1} is lost"


def line_twice(rng, file: Path, others) -> str:
    """Has a line twice."""
    lines = file.read_bytes().splitlines(keepends=True)
    number = rng.randrange(len(lines))
    lines.insert(number, lines[number])
    file.write_bytes(b"".join(lines))
    return f"line {number + 1} is twice there"


def value(rng, file: Path, others) -> str:
    """Gives a key of a JSON file another value, or loses the key."""
    tree = json.loads(file.read_bytes())
    places = list(_places(tree))
    new = rng.choice((None, True, 0, -1, 1e300, float("nan"), "", "x", [], {}, [0], {"x": 1}, "lost"))
    if not places or rng.random() < 0.05:
        file.write_text(json.dumps(new))
        return f"is {new!r} as a whole"
    branch, key = rng.choice(places)
    if new == "lost":
        del branch[key]
    else:
        branch[key] = new
    file.write_text(json.dumps(tree, indent=2))
    return f"{key!r} is {new!r}"


def _places(tree):
    """Yields (branch, key) of every value of a tree."""
    for key, below in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(below)


# What is asked of a run. Each answer is {name: text}.


def reported(trained: Trained, workdir: Path, progress: Progress) -> dict[str, str]:
    """Writes the page; its words are the answer, and its own warnings count."""
    hears = {"progress": progress} if "progress" in inspect.signature(write_report).parameters else {}
    page = write_report(workdir, workdir / "page.html", **hears).read_text(encoding="utf-8")
    for note in re.findall(r'class="[^"]*warning[^"]*"[^>]*>(.*?)</', page, re.DOTALL):
        progress.warn(note)
    text = re.sub(r"<svg.*?</svg>|<style.*?</style>|data:[^\"']*|<[^>]*>", " ", page, flags=re.DOTALL)
    return {f"word {number}": word for number, word in enumerate(text.split())}


def evaluated(trained: Trained, workdir: Path, progress: Progress) -> dict[str, str]:
    """Evaluates the test split."""
    found = evaluate(workdir, "test", progress=progress).to_dict()
    return {"table": (workdir / "eval" / "test.csv").read_text(), **{name: str(value) for name, value in found.items()}}


def predicted(trained: Trained, workdir: Path, progress: Progress) -> dict[str, str]:
    """Predicts the images of one class."""
    predict(workdir, [str(trained.data / "Uninfected")], workdir / "predictions.csv", progress=progress)
    return {"table": (workdir / "predictions.csv").read_text()}


def continued(trained: Trained, workdir: Path, progress: Progress) -> dict[str, str]:
    """Trains to the end, without pictures: they take half of the time."""
    with mock.patch.multiple(pages, save_figure=lambda figure, path, **options: path.touch(), history_figure=mock.DEFAULT,
                             network_figure=mock.DEFAULT, write_report=mock.DEFAULT):  # fmt: skip
        train(trained.config, workdir, progress=progress)
    try:
        return outcome(workdir)
    except UserError as error:  # it has trained, but what it leaves cannot be used
        return {"left": str(error)}


def environment() -> dict[str, str]:
    """Lets the processes of a session share the runs, and what they compile."""
    return {
        PLACE: ROOT.name,
        "JAX_COMPILATION_CACHE_DIR": str(Path(ROOT.name) / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.0",
    }


@functools.cache
def site() -> tuple[Trained, Trained]:
    """A finished and an interrupted run; made by the first process that asks."""
    root = Path(os.environ.get(PLACE, ROOT.name))
    if (root / "site").exists():
        return pickle.loads((root / "site").read_bytes())
    data = write_folder(root / "data", per_class=16, size=(12, 12), patients=4)
    config = tiny(data, root / "cache", image__size=8, data__batch_size=4, data__group="", split__method="stratified",
                  model__channels=(4,), model__dense=(8,), train__checkpoint_every="3 steps")  # fmt: skip
    made = (Trained(root / "finished", data, config, (reported, evaluated, predicted)),
            Trained(root / "interrupted", data, config, (reported, evaluated, predicted, continued)))  # fmt: skip
    train(config, made[0].path)
    steps = itertools.count()
    with contextlib.suppress(Stopped):
        train(config, made[1].path, stop=lambda: next(steps) > 14)
    for trained in made:
        copy = root / f"{trained.path.name}-asked" / "run"  # the name is on the page
        shutil.copytree(trained.path, copy)
        heard = Warned()
        trained.answers = {verb.__name__: verb(trained, copy, heard) for verb in trained.verbs}
        trained.warnings = set(heard.lines)
    (root / "site").write_bytes(pickle.dumps(made))
    return made
