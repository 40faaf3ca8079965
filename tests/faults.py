"""Breaks training runs at random moments and compares what they end with to a run that nobody disturbed.

    python tests/faults.py --trials=200 --seed=0 [--only=kill] [--jobs=2] [--minutes=30]

A trial starts `launch.py` as a child process, breaks it as one of `FAULTS` says, puts right what was broken, repeats the same
command until it is done, and compares every number, bit for bit. A difference, a traceback, an exit code that says
something else, a process or shared memory left behind: each is a loss. One line per trial, and at the end a table.
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fault_list import FAULTS
from fault_trials import Loss, Site, Skip, Trial, ownerless, shared_memory, wait_until


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
