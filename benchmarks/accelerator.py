"""An accelerator in nine minutes: does it compute what a CPU computes, does a run continue exactly, how fast does it train?

    python -m benchmarks.accelerator --json=benchmarks

README.md says what is measured, and what to carry to a machine without a network. Exit codes: 0 done; 1 losses differ, or a
continued run is another one; 2 one line says what to change.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks import accelerator_results, compare, load, results, tasks
from benchmarks.sides import Side, SideError, environment, missing

PEERS = ("cnnjax", "jax", "keras-jax", "torch-compile")
ROUNDS, STEPS = 5, 50
# Largest differences of the losses of two devices, over the largest loss. README.md says where they come from.
EARLY, EARLY_TOLERANCE = 10, 2e-3  # of the first steps in float32, before training has amplified rounding
TOLERANCE = {
    ("malaria", "float32"): 5e-3,
    ("malaria", "bfloat16"): 3e-2,
    ("flowers", "float32"): 5e-3,
    ("flowers", "bfloat16"): 3e-2,
    ("resnet18", "float32"): 1e-1,
    ("resnet18", "bfloat16"): 1e-1,
    ("resnet50", "float32"): 1e-1,
    ("resnet50", "bfloat16"): 1e-1,
}


@dataclasses.dataclass(frozen=True)
class Exactness:
    """Losses on the accelerator beside those on the CPU; small enough for the CPU."""

    task: str
    size: int
    batch: int
    steps: int = STEPS
    pairs: tuple[tuple[str, str], ...] = (("float32", "host"), ("float32", "device"), ("bfloat16", "device"))

    def do(self, bench: "Bench") -> None:
        settings = tasks.Settings(self.task, self.size, self.batch, min(tasks.TASKS[self.task].classes, 10))
        there = bench.check_side("accelerator", settings, {})
        here = bench.check_side("CPU", settings, {"JAX_PLATFORMS": "cpu"})
        try:
            bench.found["device"] = there.ask("about")["device"]
            there.send("curves", steps=self.steps, pairs=self.pairs, kernels="auto")
            once = [(precision, "host") for precision in dict(self.pairs)]
            here.send("curves", steps=self.steps, pairs=once, kernels="xla")
            found, expected = there.receive(), here.receive()
        finally:
            there.close()
            here.close()
        for precision, feed in self.pairs:
            ours, theirs = np.array(found[f"{precision}, {feed}"]), np.array(expected[f"{precision}, host"])
            differences = np.abs(ours - theirs) / np.abs(theirs).max()
            apart, early = float(differences.max()), float(differences[:EARLY].max())
            row = {"task": self.task, "precision": precision, "feed": feed, "steps": self.steps, "difference": apart, "early": early,
                   "allowed": TOLERANCE[self.task, precision], "accelerator": ours.tolist(), "cpu": theirs.tolist()}  # fmt: skip
            bench.found["exactness"].append(row)
            first = EARLY_TOLERANCE if precision == "float32" else row["allowed"]
            if not (apart <= row["allowed"] and early <= first):  # nor where they are not finite
                bench.fail(f"{self.task}, {precision}, images from the {feed}: losses differ by {apart:.2g} of the largest, those of {EARLY} "
                           f"steps by {early:.2g}; allowed are {row['allowed']:g} and {first:g}")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Resume:
    """Runs of the drawn cells that are stopped and continued; again with deterministic operations, where XLA's default is not."""

    size: int
    batch: int
    cells: int
    epochs: int

    def do(self, bench: "Bench") -> None:
        found = bench.found["resume"]
        for name, flags in (("by default", ""), ("deterministic", "--xla_gpu_deterministic_ops=true")):
            settings = tasks.Settings("malaria", self.size, self.batch, 2)
            side = bench.check_side(name, settings, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()})
            try:
                found[name] = side.ask("resume", cells=self.cells, epochs=self.epochs)
                platform = side.ask("about")["platform"]
            finally:
                side.close()
            if found[name]["same losses"] and found[name]["same weights"]:
                break
            repeats = "repeats itself" if found[name]["repeats"] else "does not repeat itself either"
            bench.fail(f"{name}: a run stopped after {found[name]['stopped']} of {found[name]['steps']} steps and continued is not "
                       f"the uninterrupted one, bit for bit; an uninterrupted run {repeats}")  # fmt: skip
            if platform != "gpu":
                break


@dataclasses.dataclass(frozen=True)
class Speed:
    """Training steps of all sides in turns, for each batch; of cnnjax with images from the host, too."""

    task: str
    size: int
    batches: tuple[int, ...]
    precision: str = "float32"
    seconds: float = 0.5
    rounds: int = ROUNDS
    peers: tuple[str, ...] = PEERS

    def do(self, bench: "Bench") -> None:
        watch = load.Watch()
        flags = bench.flags(self.task, "feeds", self.peers, f"--size={self.size}", f"--batch={self.batches[0]}",
                            f"--precision={self.precision}", f"--seconds={self.seconds}")  # fmt: skip
        with bench.sides(flags) as (sides, left_out):
            # A second compilation of a large network takes half a minute: of these the loss of the first weights must do.
            begun = compare.begin(sides, left_out, 0 if tasks.TASKS[self.task].depths else tasks.LAST)
            for line in compare.disagreements(begun, self.precision):
                bench.fail(f"{self.task}, {self.precision}: {line}")
            self._prepare(sides, left_out, bench.deadline)
            measured, took = {batch: {} for batch in self.batches}, 0.0
            for i in range(self.rounds):
                start = time.monotonic()
                if start + 1.5 * took > bench.deadline:
                    print(f"  {i} rounds, for more there is no time", flush=True)
                    break
                for batch, found in measured.items():
                    self._turns(sides, left_out, batch, found, first=i)
                took = time.monotonic() - start
            memory = {}
            for side in list(sides):
                with compare.leaving_out(side, sides, left_out):
                    memory[side.label] = side.memory()
        for batch, found in measured.items():
            bench.add(flags, begun, left_out, found, memory, watch, what="step", batch=batch)

    def _prepare(self, sides: list[Side], left_out: dict[str, str], deadline: float) -> None:
        """Lets every side compile; one that takes the time of those after it, or of the turns, is left out."""
        everyone = list(sides)
        for i, side in enumerate(everyone):
            start = time.monotonic()
            side.deadline = start + max(0.4, 0.75 / (len(everyone) - i)) * (deadline - start)
            with compare.leaving_out(side, sides, left_out):
                for batch in self.batches:
                    side.ask("prepare", what="feeds" if side.peer == "cnnjax" else "step", batch=batch)
                side.deadline = deadline

    def _turns(self, sides: list[Side], left_out: dict[str, str], batch: int, found: dict, first: int) -> None:
        """Gives every side a turn, and adds images per second to `found`."""
        turn = list(sides)
        for side in turn[first % max(len(turn), 1) :] + turn[: first % max(len(turn), 1)]:
            with compare.leaving_out(side, sides, left_out):
                step = side.ask("turn", batch=batch)
                values = {"training": 1e3 * batch / step["step"]}
                if fed := step.get("step, images from the host"):
                    values["training, images from the host"] = 1e3 * batch / fed
                    values["waiting for images from the host"] = 100 * max(0.0, 1 - step["step"] / fed)
                for name, value in values.items():
                    found.setdefault(name, {}).setdefault(side.label, []).append(value)


@dataclasses.dataclass(frozen=True)
class Start:
    """The time from the start of a process to the end of its first step, without and with what an earlier one has compiled."""

    task: str
    size: int
    batch: int
    precision: str = "float32"
    peers: tuple[str, ...] = PEERS

    def do(self, bench: "Bench") -> None:
        watch = load.Watch()
        flags = bench.flags(self.task, "start", self.peers, f"--size={self.size}", f"--batch={self.batch}",
                            f"--precision={self.precision}", *(f"--env={peer}:JAX_COMPILATION_CACHE_DIR=" for peer in self.peers))  # fmt: skip
        with bench.sides(flags) as (sides, left_out):
            found = compare.measure(sides, left_out, "start", 1)
        about = {side.label: {"device": bench.found["device"], "versions": {}} for side in sides}
        bench.add(flags, {"about": about, "losses": {}}, left_out, found, {}, watch, what="start", batch=self.batch)


Part = Exactness | Resume | Speed | Start

# What is done, in order of importance, and the seconds that it takes on one GPU, about: a guess until it has been measured.
PARTS: tuple[tuple[Part, int], ...] = (
    (Exactness("malaria", 32, 64), 45),
    (Exactness("resnet50", 64, 8), 75),
    (Resume(32, 8, 2000, 2), 60),
    (Speed("resnet50", 224, (256,), "bfloat16"), 150),
    (Speed("malaria", 32, (64, 512)), 60),
    (Exactness("flowers", 180, 32), 40),
    (Speed("flowers", 180, (32, 256)), 60),
    (Speed("resnet18", 224, (256,), "bfloat16"), 80),
    (Exactness("resnet18", 64, 16), 50),
    (Start("malaria", 32, 64), 60),
    (Start("resnet50", 224, 256, "bfloat16", ("cnnjax",)), 60),
)
TINY: tuple[tuple[Part, int], ...] = (
    (Exactness("malaria", 12, 8, 10, (("float32", "device"),)), 60),
    (Resume(12, 8, 60, 1), 60),
    (Speed("malaria", 12, (8,), seconds=0.01, rounds=2, peers=("cnnjax",)), 60),
    (Start("malaria", 12, 8, peers=("cnnjax",)), 60),
)


def name_of(part: Part) -> str:
    """Returns the name of a part, such as speed-malaria."""
    kind = type(part).__name__.lower()
    return kind if isinstance(part, Resume) else f"{kind}-{part.task}"


class Bench:
    """All that is found, and what the parts share.

    Args:
        tiny: whether the sizes are small ones, which measure nothing.
        minutes: for all parts.
        json: file or folder for the results; "": none.
        scratch: folder for what the sides write.

    Attributes:
        found: what goes to the results file.
        deadline: of the part under way, of `time.monotonic`.
    """

    def __init__(self, tiny: bool, minutes: float, json: str, scratch: Path):
        self.scratch, self._json, self._end = scratch, json, time.monotonic() + 60 * minutes
        self.deadline = self._end
        self._threads = len(os.sched_getaffinity(0))
        self.found = {"machine": results.machine(self._threads), "tiny": tiny, "device": "", "exactness": [], "resume": {},
                      "comparisons": [], "failed": [], "skipped": {}, "seconds": {}}  # fmt: skip

    def do(self, part: Part, seconds: int) -> None:
        """Does a part where there is time for it, says so where there is none, and writes all that is known."""
        name, start = name_of(part), time.monotonic()
        left = self._end - start
        self.deadline = min(self._end, start + 2 * seconds)
        print(f"{name}: {left:.0f} s are left", flush=True)
        skipped = self.found["skipped"]
        try:
            if left < seconds:
                skipped[name] = f"{max(left, 0):.0f} s were left, it takes about {seconds}"
            else:
                part.do(self)
        except (SideError, compare.UsageError) as error:
            skipped[name] = str(error)
        except Exception as error:  # the other parts are worth their time nevertheless
            traceback.print_exc()
            skipped[name] = f"{type(error).__name__}: {error}"
        if name in skipped:
            print(f"{name} is skipped: {skipped[name]}", file=sys.stderr, flush=True)
        self.found["seconds"][name] = round(time.monotonic() - start, 1)
        self._json = accelerator_results.write(self.found, self._json)

    def fail(self, line: str) -> None:
        """Notes what is not as it must be."""
        print(f"error: {line}", file=sys.stderr, flush=True)
        self.found["failed"].append(line)

    def check_side(self, label: str, settings: tasks.Settings, more: dict[str, str]) -> Side:
        """Returns a worker of `peers.checks`."""
        own = dataclasses.replace(settings, threads=self._threads, scratch=tempfile.mkdtemp(dir=self.scratch))
        side = Side(label, "cnnjax-checks", own, environment("cnnjax", self._threads, more))
        side.deadline = self.deadline
        return side

    def flags(self, task: str, what: str, peers: tuple[str, ...], *more: str) -> argparse.Namespace:
        """Returns the flags of `compare` for the sides of a part; a side that is not installed is named by `compare.make_sides`."""
        flags = compare.parse([f"--task={task}", "--what=step", f"--peers={','.join(peers)}", *more])
        flags.what = what
        return flags

    @contextlib.contextmanager
    def sides(self, flags: argparse.Namespace):
        """Gives the sides of a comparison and an empty dict of those that are left out, with those that are not installed in it; ends all."""
        everyone = compare.make_sides(flags, tasks.TASKS[flags.task].classes, self.scratch)
        left_out = {peer: f"{lacks} is not installed" for peer in flags.peers if (lacks := missing(peer))}
        for side in everyone:
            side.deadline = self.deadline
        try:
            yield list(everyone), left_out
        finally:
            for side in everyone:
                with contextlib.suppress(ValueError):  # it is closed
                    side.close()

    def add(self, flags: argparse.Namespace, begun: dict, left_out: dict, measured: dict, memory: dict, watch: load.Watch,
            **settings) -> None:  # fmt: skip
        """Adds a comparison, in the form of `compare`."""
        task = tasks.TASKS[flags.task]
        self.found["device"] = self.found["device"] or next(iter(begun["about"].values()), {}).get("device", "")
        shown = {"task": flags.task, "size": flags.size or task.size, "classes": task.classes, "precision": flags.precision,
                 "threads": flags.threads, "seconds": flags.seconds, "images": 0, "env": flags.environment, "drawn": False}  # fmt: skip
        self.found["comparisons"].append({"machine": self.found["machine"] | watch.report(), "settings": shown | settings, **begun,
                                          "left_out": left_out, "results": measured, "memory": memory})  # fmt: skip


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise compare.UsageError(f"{message}; python -m benchmarks.accelerator --help lists the flags")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the flags. Raises UsageError."""
    parser = Parser(prog="python -m benchmarks.accelerator", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts; what does not fit is skipped. Default: 9")
    parser.add_argument("--tiny", action="store_true", help="small sizes that measure nothing, to see that all of it works")
    names = [name_of(part) for part, _ in PARTS]
    parser.add_argument("--parts", default="", help=f"some of {','.join(names)}; default: all, in this order")
    parser.add_argument(
        "--json", default="", help="file for the results, or a folder for results-DATE-DEVICE/accelerator.json"
    )
    flags = parser.parse_args(argv)
    flags.parts = flags.parts.split(",") if flags.parts else names
    for name in flags.parts:
        if name not in names:
            raise compare.UsageError(f"--parts={name}: use some of {', '.join(names)}, such as --parts={names[0]}")
    if not 0 < flags.minutes < float("inf"):
        raise compare.UsageError(f"--minutes={flags.minutes:g}: use a number above 0, such as --minutes=9")
    if flags.json and not Path(flags.json).is_dir() and not Path(flags.json).parent.is_dir():
        raise compare.UsageError(
            f"--json={flags.json}: {Path(flags.json).parent} is not a folder; make it first, or name a file in one"
        )
    return flags


def main(argv: list[str]) -> int:
    """Does all parts, prints their tables; returns the exit code."""
    try:
        flags = parse(argv)
    except compare.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="accelerator-") as scratch:
        bench = Bench(flags.tiny, flags.minutes, flags.json, Path(scratch))
        for part, seconds in TINY if flags.tiny else PARTS:
            if name_of(part) in flags.parts:
                bench.do(part, seconds)
    print(accelerator_results.markdown(bench.found))
    return 1 if bench.found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
