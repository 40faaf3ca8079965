"""Measures with their units, and the clocks that all sides share."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MEASURES = {  # name: unit, whether more is better; None: neither, or not a matter of speed
    "step": ("ms", False),
    "training": ("images/s", True),
    "training, images from the host": ("images/s", True),
    "waiting for images from the host": ("% of the time", None),
    "epoch with evaluation": ("s", False),
    "epoch with evaluation, checkpoint and curves": ("s", False),
    "run to early stop": ("s", False),
    "epochs of the run": ("epochs", None),
    "validation AUC of the run": ("AUC", None),
    "decode a folder": ("images/s", True),
    "decode a folder, ImageDataGenerator": ("images/s", True),
    "first step, cold": ("s", False),
    "first step, warm": ("s", False),
    "predict one file": ("ms", False),
    "predict a folder": ("images/s", True),
    "augment": ("ms", False),
    "augment, one draw for the batch": ("ms", False),
    "list, decode and split": ("s", False),
    "list, open what is decoded and split": ("s", False),
    "first epoch with evaluation, compiled anew": ("s", False),
    "later epoch with evaluation": ("s", False),
}


def times_ours(measure: str, value: float, ours: float) -> float | None:
    """Returns how many times as fast ours is; None for a measure that is not one of speed."""
    if MEASURES[measure][1] is None:
        return None
    return ours / value if MEASURES[measure][1] else value / ours


def paced(call: Callable[[], object], finish: Callable[[], None], seconds: float, most: int = 1000) -> Callable[[], float]:
    """Makes a turn that repeats `call` for about `seconds`, then waits once for the device.

    Args:
        call: queues or does one piece of work.
        finish: returns when all of it is done.
        seconds: of a turn.
        most: repetitions.

    Returns:
        A function that returns the milliseconds of one call.
    """

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        finish()
        return (time.perf_counter() - start) / calls

    timed(1)  # compiles
    each = timed(1)  # lets allocators and caches settle
    if each < seconds:
        timed(1)
        each = timed(2)
    count = min(most, max(1, round(seconds / each)))

    return lambda: 1e3 * timed(count)


def images_per_second(work: Callable[[], int]) -> float:
    """Returns the speed of one call of `work`, which returns its number of images."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def in_turns(sides: Mapping[str, subprocess.Popen], rounds: int, line: str) -> dict[str, list[Any]]:
    """Writes a line to each process and reads its answer in JSON, one process after the other, in changing order; returns all answers."""
    answers: dict[str, list[Any]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sorted(sides, reverse=turn % 2 == 1):
            print(line, file=sides[side].stdin, flush=True)
            answers[side].append(json.loads(sides[side].stdout.readline()))
    return answers


def answer(threads: int, begin: Callable[[str], tuple[Any, Any]], again: Callable[[Any], Any]) -> None:
    """Is one side of a comparison: reads names, and "" for another round of the last one; writes a line of JSON for each.

    Args:
        threads: processors that it may use.
        begin: name -> what it has made of it, and what to write.
        again: what was made -> what to write of a round.
    """
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    made = None
    for line in sys.stdin:
        if line.strip():
            made, found = begin(line.strip())
        else:
            found = again(made)
        print(json.dumps(found), file=answers, flush=True)
