"""A process of `test_dispatches.py`: trains on 1 and on 8 devices, and prints the dispatches, the host's waits and the numbers of epochs."""

import collections
import json
import sys
import threading
from pathlib import Path

import jax
import numpy as np
from small_loops import small_loop

from cnnjax import runtime, training

EPOCHS, AT_ONCE = 2, 4  # of which the last is counted; updates of a dispatch where images are stored on the devices
ARRAY = type(jax.numpy.zeros(()))
FETCHES = [(jax, "device_get"), (jax, "block_until_ready"), (np, "asarray"), (np, "array"), (np, "ascontiguousarray"),
           *((ARRAY, name) for name in ("block_until_ready", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__"))]  # fmt: skip


class Spy:
    """Counts the calls that wait for an array of a device, each outermost one once: by "loop" and, while it saves, by "save"."""

    def __init__(self):
        self.waits, self.on, self._own = collections.Counter(), False, threading.local()
        for owner, name in FETCHES:
            setattr(owner, name, self._counted(getattr(owner, name)))
        save = training.Saver.save

        def saving(*arguments):
            self._own.saving = True
            save(*arguments)
            self._own.saving = False

        training.Saver.save = saving

    def _counted(self, call):
        def counted(*arguments, **options):
            depth = getattr(self._own, "depth", 0)
            if self.on and not depth and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arguments)):
                in_loop = threading.current_thread() is threading.main_thread() and not getattr(self._own, "saving", False)
                self.waits["loop" if in_loop else "save"] += 1
            self._own.depth = depth + 1
            try:
                return call(*arguments, **options)
            finally:
                self._own.depth = depth

        return counted


class Epochs(training.Observer):
    """Counts from the end of the first epoch to the end of the last."""

    def __init__(self, spy: Spy, trace: Path):
        self._spy, self._trace, self._epoch = spy, trace, 0
        self.numbers = []

    def epoch_evaluated(self, row, numbers, *, best):
        self.numbers.append([row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")])

    def epoch_ended(self, rows, best_step):
        self._epoch += 1
        if self._epoch == 1:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._trace), profiler_options=options)
        self._spy.on = self._epoch < EPOCHS
        if not self._spy.on:
            jax.profiler.stop_trace()


def dispatches(trace: Path) -> dict[str, int]:
    """Name of a compiled function -> how often it was called; a call is in the trace twice, one within the other."""
    found = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(next(trace.rglob("*.xplane.pb")))).planes:
        for line in plane.lines:
            calls = [event for event in line.events if event.name.startswith("PjitFunction(")]
            until = -1.0
            for call in sorted(calls, key=lambda call: (call.start_ns, -call.duration_ns)):
                if call.start_ns >= until:
                    found[call.name.removeprefix("PjitFunction(")[:-1]] += 1
                    until = call.start_ns + call.duration_ns
    return dict(found)


def main() -> None:
    """Prints the counts of each placement and number of devices as JSON."""
    jax.config.update("jax_disable_most_optimizations", True)  # of programs that are called a few times
    place, spy, counts = Path(sys.argv[1]), Spy(), {}
    for placement, at_once in (("host", 1), ("device", AT_ONCE)):
        runtime.steps_at_once = lambda mesh, most=at_once: most
        for devices in (1, 8):
            own = place / f"{placement}{devices}"
            spy.waits.clear()
            epochs = Epochs(spy, own / "trace")
            with small_loop(own / "run", epochs, devices=devices, data__placement=placement, train__epochs=EPOCHS,
                            optimizer__schedule="cosine") as loop:  # fmt: skip
                loop.run()
            counts[f"{placement} {devices}"] = {
                "dispatches": dispatches(own / "trace"),
                **spy.waits,
                "numbers": epochs.numbers,
            }
    print(json.dumps(counts))
