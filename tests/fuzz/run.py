"""Feeds damaged and arbitrary input to the parts that read what others have made, until something happens that must not.

    python tests/fuzz/run.py --minutes=60 [--only=pictures,runs] [--seed=0] [--out=DIR]

The fuzzers take turns of a minute at most, each in a process of its own, so that a crash or a hang is a finding as well. A line
for each turn says how many inputs were tried. What is found is saved with its reason, three times for each kind. Exit code 1: there
are findings. `--minutes=0` tries one input, such as that of a finding again: --only=NAME --seed=N.
"""

import argparse
import collections
import dataclasses
import importlib
import json
import os
import queue
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from fuzz.findings import Finding, Skip  # noqa: E402

NAMES = ("pictures", "pixels", "archives", "configs", "runs")
TURN = 60  # seconds of a fuzzer before the next one
START = 300  # seconds that a fuzzer may take before its first input
SAVED = 3  # inputs kept of each kind of finding
LIMIT = 6 * 2**30  # bytes that the process of a fuzzer may have, so that a claim of terabytes fails there


@dataclasses.dataclass
class Turn:
    """Result of a fuzzer's turn.

    Attributes:
        tried: inputs.
        kinds: kind of finding -> how often.
        skipped: why this machine cannot run the fuzzer, else "".
        next: seed of the next input.
    """

    tried: int = 0
    kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    skipped: str = ""
    next: int = 0


def take_turn(name: str, seed: int, seconds: float, out: Path, most: float = float("inf")) -> Turn:
    """Runs a fuzzer in child processes for some seconds, or until it has tried `most` inputs; saves findings below `out`."""
    turn, module = Turn(next=seed), importlib.import_module(f"fuzz.{name}")
    try:
        environment = module.environment() if hasattr(module, "environment") else {}
    except Skip as reason:
        turn.skipped = str(reason)
        return turn
    end = time.monotonic() + seconds
    while turn.tried < most and (time.monotonic() < end or not turn.tried):
        with tempfile.TemporaryDirectory(prefix="cnnjax-fuzz-") as scratch:
            for finding in _work(turn, module, environment, end, most, Path(scratch)):
                turn.kinds[finding["kind"]] += 1
                if turn.kinds[finding["kind"]] <= SAVED:
                    _save(out, name, finding, Path(scratch))
    return turn


def _work(turn: Turn, module, environment: dict[str, str], end: float, most: float, scratch: Path) -> Iterator[dict]:
    """Starts one child at `turn.next` and counts until it ends; yields its findings while their files are there."""
    name = module.__name__.rpartition(".")[2]
    count = most - turn.tried
    command = [sys.executable, __file__, f"--work={name}", f"--seed={turn.next}", f"--seconds={max(end - time.monotonic(), 0)}",
               f"--count={count}", f"--scratch={scratch}"]  # fmt: skip
    with open(scratch / "stderr", "wb") as said:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, bufsize=1,
                                 env={**os.environ, **environment})  # fmt: skip
    lines = queue.Queue()
    reader = threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True)
    reader.start()
    try:
        begun = hung = False
        while not hung:
            limit = module.SECONDS if begun else START
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                hung = True
                child.kill()
                break
            if not line:
                break
            told = json.loads(line)
            begun = "begun" in told
            if begun:
                turn.next, turn.tried = told["begun"] + 1, turn.tried + 1
            elif "kind" in told:
                yield told
                child.stdin.write("\n")  # its files are saved
        code = child.wait()
        if hung or code:
            text = (scratch / "stderr").read_text(errors="replace").strip().splitlines() or [""]
            seen = next((line for line in text if "ERROR: " in line or "runtime error" in line), text[-1])
            kind = f"no end within {limit} s" if hung else f"the process ended with {code}"
            if not begun:
                raise RuntimeError(f"{name}: {kind} outside of an input: {seen}")
            kind += f", {re.sub(r'[0-9a-fx]{5,}|==[0-9]+==', 'N', seen)[:120]}"
            yield {"kind": kind, "reason": "\n".join(text[-60:]), "seed": turn.next - 1}
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        reader.join()


def _forward(stream: IO[str], lines: queue.Queue) -> None:
    """Puts the lines of a stream, and "" at its end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def _save(out: Path, name: str, finding: dict, scratch: Path) -> None:
    """Keeps the input of a finding with its reason."""
    folder = out / f"{name}-{finding['seed']}"
    shutil.copytree(scratch / "input", folder, dirs_exist_ok=True)
    again = f"python tests/fuzz/run.py --minutes=0 --only={name} --seed={finding['seed']}"
    (folder / "reason.txt").write_text(f"{finding['kind']}\n{finding['reason']}\n\n{again}\n")


def work(name: str, seed: int, seconds: float, count: float, scratch: Path) -> None:
    """Tries inputs in this process; tells the parent of each, a line of JSON, and waits until it has saved what was found."""
    told, sys.stdout = sys.stdout, sys.stderr
    module = importlib.import_module(f"fuzz.{name}")
    if getattr(module, "LIMITED", False):
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    if hasattr(module, "begin"):
        module.begin()
    end, last = time.monotonic() + seconds, seed + count
    folder = scratch / "input"
    while seed < last:
        folder.mkdir()
        print(json.dumps({"begun": seed}), file=told, flush=True)
        try:
            module.attempt(random.Random(f"{name} {seed}"), folder)
        except AssertionError as error:
            kind = error.kind if isinstance(error, Finding) else str(error).splitlines()[0][:200]
            print(json.dumps({"kind": kind, "reason": str(error), "seed": seed}), file=told, flush=True)
            sys.stdin.readline()
        shutil.rmtree(folder)
        seed += 1
        if time.monotonic() > end:
            break
    print(json.dumps({"ended": seed}), file=told, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", default=",".join(NAMES), help="fuzzers, with commas: " + ", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the next one has the next number")
    parser.add_argument("--out", type=Path, help="directory for findings; default: a temporary one")
    for hidden in ("--work", "--scratch"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    for hidden in ("--seconds", "--count"):
        parser.add_argument(hidden, type=float, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seed, options.seconds, options.count, Path(options.scratch))
        return 0
    if unknown := set(options.only.split(",")) - set(NAMES):
        parser.error(f"no fuzzer {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return fuzz(options.only.split(","), options.seed, 60 * options.minutes, options.out)


def fuzz(names: list[str], seed: int, seconds: float, out: Path | None) -> int:
    """Lets the fuzzers take turns; returns the exit code."""
    start, out = time.monotonic(), out or Path(tempfile.mkdtemp(prefix="cnnjax-findings-"))
    turns, kinds, left = dict.fromkeys(names, seed), {name: collections.Counter() for name in names}, list(names)
    tried = collections.Counter()
    while left:
        for name in list(left):
            rest = seconds - (time.monotonic() - start)
            if rest <= 0 and (seconds or tried[name]):
                left.clear()
                break
            turn = take_turn(name, turns[name], min(TURN, rest / len(left)), out, float("inf") if seconds else 1)
            turns[name], tried[name] = turn.next, tried[name] + turn.tried
            kinds[name] += turn.kinds
            if turn.skipped:
                left.remove(name)
                print(f"{name:<9} skipped: {turn.skipped}", flush=True)
                continue
            found = f"{kinds[name].total()} findings of {len(kinds[name])} kinds"
            print(f"{name:<9} {tried[name]:>9,} inputs, {found}, next seed {turn.next}", flush=True)
        if not seconds:
            break
    for name, counter in kinds.items():
        for kind, count in counter.most_common():
            print(f"{count:>6} {name}: {kind}")
    if any(kinds.values()):
        print(f"inputs and reasons are in {out}")
        return 1
    print("no findings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
