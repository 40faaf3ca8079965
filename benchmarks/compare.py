"""cnnjax and other trainers in turns on this machine.

    python -m benchmarks.compare --task=malaria --what=step
    python -m benchmarks.compare --task=flowers --what=epoch --data=DIR --rounds=5 --json=epoch.json --plot=epoch.png

README.md says what is measured. Exit codes: 0 done; 1 the sides do not compute the same; 2 one line says what to change.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import folders, load, results, tasks
from benchmarks.measures import MEASURES
from benchmarks.sides import NEEDS, Side, SideError, environment, missing

WHATS = ("step", "epoch", "run", "decode", "start", "predict", "augment", "growth-data", "growth-devices")
ROUNDS = {
    "step": 9,
    "augment": 9,
    "epoch": 3,
    "run": 3,
    "decode": 5,
    "start": 3,
    "predict": 5,
    "growth-devices": 5,
    "growth-data": 1,
}
DRAWN = {"malaria": 2000, "flowers": 500, "resnet18": 1000, "resnet50": 2000}  # images where no --data is named
DEVICES = (1, 2, 4, 8)
# Relative differences that are let pass. TF32 of accelerators rounds to 11 bits, bfloat16 to 8. After a few steps Keras differs
# by 2 % with the same first loss: its Adam adds epsilon before the correction of the bias.
TOLERANCE = {("float32", "cpu"): 1e-3, ("float32", "gpu"): 1e-2, ("bfloat16", "cpu"): 3e-2, ("bfloat16", "gpu"): 3e-2}
TRAINED = 0.1  # of the losses in the first training steps


class UsageError(Exception):
    """A wrong flag, in one line."""


class Different(Exception):
    """Sides that do not compute the same."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}; python -m benchmarks.compare --help lists the flags")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the flags. Raises UsageError."""
    usable = len(os.sched_getaffinity(0))
    per = {name: ", ".join(f"{key} {n:,}" for key, n in of.items()) for name, of in (("rounds", ROUNDS), ("images", DRAWN))}
    parser = Parser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--task", required=True, help=", ".join(tasks.TASKS))
    parser.add_argument("--what", required=True, help=", ".join(WHATS))
    parser.add_argument("--peers", default="", help=f"some of {','.join(NEEDS)}; default: all that are installed")
    parser.add_argument("--rounds", type=int, default=0, help=f"turns of each side; default: {per['rounds']}")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn of step, augment and predict")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=usable, help="of each side; default: the usable cores")
    parser.add_argument("--data", default="", help="folder with a folder of images per class; default: drawn images")
    parser.add_argument("--images", type=int, default=0, help=f"drawn where there is no --data; default: {per['images']}")
    parser.add_argument("--size", type=int, default=0, help="pixels; default: the task's")
    parser.add_argument("--batch", type=int, default=0, help="images; default: the task's")
    parser.add_argument("--env", action="append", default=[], help="PEER:NAME=VALUE, set for one side; may be repeated")
    parser.add_argument(
        "--json", default="", help="file for the results; not written while other programs keep the machine busy"
    )
    parser.add_argument("--even-if-busy", action="store_true", help="write the results of a busy machine too")
    parser.add_argument("--plot", default="", help="file for a picture of them")
    flags = parser.parse_args(argv)
    flags.cores = usable

    def one_of(flag: str, given: str, allowed) -> None:
        if given not in allowed:
            raise UsageError(f"--{flag}={given}: use one of {', '.join(allowed)}, such as --{flag}={next(iter(allowed))}")

    one_of("task", flags.task, tasks.TASKS)
    one_of("what", flags.what, WHATS)
    one_of("precision", flags.precision, ("float32", "bfloat16"))
    flags.peers = [name for name in flags.peers.split(",") if name]
    for name in flags.peers:
        one_of("peers", name, NEEDS)
    if not 1 <= flags.threads <= usable:
        raise UsageError(f"--threads={flags.threads}: this process may use 1 to {usable} cores, such as --threads={usable}")
    for name in ("rounds", "size", "batch", "images"):
        if getattr(flags, name) < 0:
            raise UsageError(f"--{name}={getattr(flags, name)}: use a number above 0, or leave it out")
    if flags.data and len(folders.listed(flags.data)[2] if Path(flags.data).is_dir() else ()) < 2:
        raise UsageError(f"--data={flags.data}: no folder with a folder of images per class; unpack the archive and name the "
                         "folder around the classes, or leave it out for drawn images")  # fmt: skip
    flags.environment = {}
    for text in flags.env:
        peer, _, setting = text.partition(":")
        name, equals, value = setting.partition("=")
        if peer not in NEEDS or not equals:
            raise UsageError(f"--env={text}: write PEER:NAME=VALUE, such as --env=torch:OMP_WAIT_POLICY=PASSIVE")
        flags.environment.setdefault(peer, {})[name] = value
    return flags


def settings_of(peer: str, flags: argparse.Namespace, classes: int, scratch: Path) -> tasks.Settings:
    """Returns the settings of a peer: the same for all but its own folder."""
    task = tasks.TASKS[flags.task]
    own = Path(tempfile.mkdtemp(prefix=f"{peer}-", dir=scratch))
    return tasks.Settings(flags.task, flags.size or task.size, flags.batch or task.batch, classes, flags.precision, flags.threads,
                          flags.seconds, data=str(Path(flags.data).resolve()), scratch=str(own))  # fmt: skip


def make_sides(flags: argparse.Namespace, classes: int, scratch: Path) -> list[Side]:
    """Returns the sides of a comparison, ours first."""
    if flags.what == "growth-devices":
        sides = []
        for count in DEVICES:
            xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
            env = environment("cnnjax", flags.threads, {"XLA_FLAGS": xla} | flags.environment.get("cnnjax", {}))
            sides.append(Side(f"cnnjax, {count} devices", "cnnjax", settings_of("cnnjax", flags, classes, scratch), env))
        return sides
    sides = []
    for peer in NEEDS:
        if flags.peers and peer not in flags.peers:
            continue
        lacks = missing(peer)
        if lacks:
            print(f"{peer} is left out: {lacks} is not installed; {NEEDS[peer][1]}", file=sys.stderr)
            continue
        own = settings_of(peer, flags, classes, scratch)
        more = {"TORCHINDUCTOR_CACHE_DIR": f"{own.scratch}/inductor"} if peer == "torch-compile" else {}
        env = environment(peer, flags.threads, more | flags.environment.get(peer, {}))
        sides.append(Side(peer, peer, own, env))
        if peer == "cnnjax" and flags.what == "step" and flags.precision != "float32":  # what it gains by that itself
            exact = dataclasses.replace(settings_of(peer, flags, classes, scratch), precision="float32")
            sides.append(Side("cnnjax, float32", peer, exact, env))
    if not sides:
        raise UsageError(f"--peers={','.join(flags.peers)}: none of these is installed; try --peers=cnnjax,jax")
    return sides


@contextlib.contextmanager
def leaving_out(side: Side, sides: list[Side], left_out: dict[str, str]):
    """Names a side that fails in one line and leaves it out."""
    try:
        yield
    except SideError as error:
        print(f"{side.label} is left out: {error}", file=sys.stderr)
        left_out[side.label] = str(error)
        sides.remove(side)
        side.close()


def differences(losses: dict[str, dict], tolerance: float) -> list[str]:
    """Returns a line for each side whose losses differ from those of the first one; [] where all agree."""
    first, *others = losses
    lines = []
    for other in others:
        for name, allowed in (("inference", tolerance), ("training", max(TRAINED, tolerance))):
            a, b = losses[first][name], losses[other][name]
            pairs = zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]
            if not all(abs(x - y) <= allowed * abs(x) for x, y in pairs):
                lines.append(f"{name} loss of {first} {a}, of {other} {b}; allowed is a difference of {allowed:g} of it")
    return lines


def begin(sides: list[Side], left_out: dict[str, str], steps: int = tasks.LAST) -> dict:
    """Starts all sides at once, then asks each for its losses in `steps` training steps; returns devices and losses by side."""
    about, losses = {}, {}
    for side in sides:
        side.send("about")
    for side in list(sides):
        with leaving_out(side, sides, left_out):
            about[side.label] = side.receive()
    for side in list(sides):
        with leaving_out(side, sides, left_out):
            platform = next(iter(about.values()))["platform"]
            if about[side.label]["platform"] != platform:
                raise SideError(f"it computes on {about[side.label]['platform']}, the first side on {platform}")
            losses[side.label] = side.ask("losses", steps=steps)
            print(f"  {side.label:<20} loss {losses[side.label]['inference']:.6f}, in training steps "
                  + ", ".join(f"{x:.4f}" for x in losses[side.label]["training"]), flush=True)  # fmt: skip
    if not losses:
        raise UsageError("no side is left; python -m benchmarks.compare --help lists the flags")
    return {"about": about, "losses": losses}


def disagreements(begun: dict, precision: str) -> list[str]:
    """Returns `differences` of what `begin` has found, by the tolerance of its platform."""
    platform = next(iter(begun["about"].values()))["platform"]
    return differences(begun["losses"], TOLERANCE[precision, "cpu" if platform == "cpu" else "gpu"])


def check(sides: list[Side], left_out: dict[str, str], precision: str) -> dict:
    """Compares devices and losses of all sides; returns both by side. Raises Different."""
    begun = begin(sides, left_out)
    if different := disagreements(begun, precision):
        raise Different("\n".join(different))
    return begun


def measure_starts(side: Side) -> dict[str, float]:
    """Measures two starts: without compiled programs of an earlier start, then with them."""
    shutil.rmtree(side.settings.scratch, ignore_errors=True)
    Path(side.settings.scratch).mkdir()
    return {"first step, cold": side.first_step(), "first step, warm": side.first_step()}


def measure(sides: list[Side], left_out: dict[str, str], what: str, rounds: int) -> dict:
    """Gives every side a turn in each round, in changing order; returns {measure: {side: a number per round}}."""
    what = "step" if what == "growth-devices" else what
    found: dict[str, dict[str, list[float]]] = {}
    if what != "start":
        for side in list(sides):
            with leaving_out(side, sides, left_out):
                side.ask("prepare", what=what)
    for i in range(rounds):
        turn = list(sides)
        for side in turn[i % max(len(turn), 1) :] + turn[: i % max(len(turn), 1)]:
            with leaving_out(side, sides, left_out):
                for name, value in (measure_starts(side) if what == "start" else side.ask("turn")).items():
                    found.setdefault(name, {}).setdefault(side.label, []).append(value)
        print(f"  round {i + 1} of {rounds}", flush=True)
    return {name: found[name] for name in MEASURES if name in found}


def compare(flags: argparse.Namespace, scratch: Path) -> dict:
    """Measures, and returns what goes to the JSON file."""
    if not flags.data and flags.what in ("epoch", "run", "decode", "predict"):
        count = flags.images or DRAWN[flags.task]
        print(f"drawing {count:,} images", flush=True)
        folders.draw(flags.task, count, scratch / "images")
        flags.data = str(scratch / "images")
    classes = len(folders.listed(flags.data)[2]) if flags.data else tasks.TASKS[flags.task].classes
    machine, left_out = results.machine(flags.threads), {}
    sides = everyone = make_sides(flags, classes, scratch)
    sides = list(everyone)
    try:
        checked = check(sides, left_out, flags.precision)
        values = measure(sides, left_out, flags.what, flags.rounds or ROUNDS[flags.what])
        memory = {}
        for side in list(sides):
            with leaving_out(side, sides, left_out):
                memory[side.label] = side.memory()
    finally:
        for side in everyone:
            with contextlib.suppress(ValueError):
                side.close()
    images = len(folders.listed(flags.data)[0]) if flags.data else 0
    shown = dataclasses.asdict(everyone[0].settings) | {"what": flags.what, "images": images, "env": flags.environment}
    for key in ("data", "scratch"):
        del shown[key]
    return {"machine": machine, "settings": shown | {"drawn": bool(images) and str(scratch) in flags.data}, **checked,
            "left_out": left_out, "results": values, "memory": memory}  # fmt: skip


def main(argv: list[str]) -> int:
    """Compares, prints, writes; returns the exit code."""
    try:
        flags = parse(argv)
        refuse_busy(flags, load.current(flags.cores) if flags.json else "")
        watch = load.Watch()
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            if flags.what == "growth-data":
                from benchmarks import growth

                found = growth.measure(flags, Path(scratch))
            else:
                found = compare(flags, Path(scratch))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Different as error:
        print("".join(f"error: {line}\n" for line in str(error).splitlines()), end="", file=sys.stderr)
        return 1
    found["machine"] |= watch.report()
    print(results.text(found))
    if flags.plot:
        results.plot(found, flags.plot)
    if flags.json:
        try:
            refuse_busy(flags, load.problem(found["machine"], flags.cores))
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        results.write(found, flags.json)
    return 0


def refuse_busy(flags: argparse.Namespace, problem: str) -> None:
    """Refuses results of a machine that other programs keep busy. Raises UsageError."""
    if problem and not flags.even_if_busy:
        raise UsageError(f"{problem}; {flags.json} is not written: stop them, or add --even-if-busy")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
