"""The epochs of a run of cnnjax, one when it is asked for."""

import contextlib
import queue
import threading
import time
from pathlib import Path

from cnnjax.progress import Progress


class Epochs(Progress):
    """A run of `train` that waits before each epoch until it is asked for one.

    The clock starts when `train` opens the task of an epoch and stops when it reports the row of that epoch, after the
    evaluation; a second one stops when the curves are drawn and the checkpoint is whole.
    """

    def __init__(self, config, scratch: Path):
        self._go, self._times, self._rows = threading.Semaphore(0), queue.Queue(), 0
        self._saved, self._trained = threading.Event(), False
        threading.Thread(target=self._work, args=(config, scratch / "epochs"), daemon=True).start()

    def _work(self, config, workdir: Path) -> None:
        from cnnjax.commands.train import train

        try:
            train(config, workdir, progress=self, saved=self._saved.set)
        except BaseException as error:
            self._times.put(error)

    @contextlib.contextmanager
    def task(self, name, total, unit):
        if not name.startswith("epoch"):
            yield lambda n, note="", total=None: None
            return
        self._go.acquire()
        self._saved.clear()
        self._times.put(time.perf_counter())
        yield lambda n, note="", total=None: None
        self._trained = True

    def message(self, text):
        if self._trained:  # the first line after an epoch's steps is its row
            self._trained = False
            self._times.put(time.perf_counter())

    def epoch(self) -> dict[str, float]:
        """Trains one more epoch; returns its seconds by measure."""
        self._go.release()
        times = [self._times.get(), self._times.get()]
        for value in times:
            if isinstance(value, BaseException):
                raise value
        self._saved.wait(60)
        start, evaluated = times
        return {
            "epoch with evaluation": evaluated - start,
            "epoch with evaluation, checkpoint and curves": time.perf_counter() - start,
        }
