"""Images of many requests, decoded by some threads and put through the network together.

A thread takes what waits, decodes it and adds it to what is ready. If no thread computes, it computes what is ready until nothing is
left; meanwhile the others decode. A batch is therefore what has come while the one before was computed, and nothing waits for a timer
unless a latency is stated.
"""

import collections
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnjax import data as data_lib
from cnnjax.serving.limits import Limits
from cnnjax.serving.served import File, Served

SMALL = 2**18  # pixels of a picture that is decoded in the event loop


class Answer:
    """The answer for one image.

    Attributes:
        error: why there is none, in one line; "" where there is one.
        failed: whether that is the fault of the server, and not of the image.
        probabilities: float of each class.
        called: index of the class that is called.
        unlike: how unlike the training images it is; None for networks that cannot tell.
    """

    __slots__ = ("called", "error", "failed", "probabilities", "unlike")

    def __init__(self, error: str = "", failed: bool = False, probabilities: Sequence[float] = (), called: int = 0,
                 unlike: float | None = None):  # fmt: skip
        self.error, self.failed, self.probabilities, self.called, self.unlike = error, failed, probabilities, called, unlike


class Request:
    """Images that came together and are answered together.

    Attributes:
        served: what answers all of them.
        answers: as far as there are any.
        left: number of images without an answer.
        future: done as soon as none is left.
    """

    __slots__ = ("answers", "future", "left", "served")

    def __init__(self, served: Served, count: int, future: Any):
        self.served, self.answers, self.left, self.future = served, [None] * count, count, future


class _Job:
    """One image of a request on its way; `inputs` are views of its pixels."""

    __slots__ = ("came", "file", "inputs", "place", "request")

    def __init__(self, request: Request, place: int, file: File, came: float):
        self.request, self.place, self.file, self.came, self.inputs = request, place, file, came, ()


class Batches:
    """The threads between the requests and the network.

    Args:
        loop: the event loop whose futures are set.
        limits: of a batch, and of the pixels of a picture.
        threads: that decode, of which one at a time computes.
        latency: seconds that an image may wait for others; 0: none waits.
        observe: called with the images of each batch and its seconds, by a thread.
    """

    def __init__(self, loop: Any, limits: Limits, threads: int, latency: float = 0.0,
                 observe: Callable[[int, float], None] = lambda images, seconds: None):  # fmt: skip
        self._loop, self._limits, self._latency, self._observe = loop, limits, latency, observe
        self._files: queue.SimpleQueue = queue.SimpleQueue()
        self._ready: collections.deque[_Job] = collections.deque()
        self._lock = threading.Condition()
        self._busy = False
        self._threads = [threading.Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request, files: Sequence[File]) -> None:
        """Takes the images of a request; called in the loop."""
        came = time.monotonic() if self._latency else 0.0
        for place, file in enumerate(files):
            self._files.put(_Job(request, place, file, came))

    def answer(self, request: Request, file: File) -> bool:
        """Answers the one image of a request in the calling thread, so that none has to wake; returns False where it is not a small one."""
        data_lib.narrow(min(self._limits.pixels, SMALL))
        inputs, reasons = request.served.decode([file])
        if reasons[0]:
            return False
        start = time.perf_counter()
        request.answers[0] = self._answered([_Job(request, 0, b"", 0.0)], inputs)[0][1]
        self._observe(1, time.perf_counter() - start)
        return True

    def close(self) -> None:
        """Ends the threads after what they have."""
        for _ in self._threads:
            self._files.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        data_lib.narrow(self._limits.pixels)
        while (job := self._files.get()) is not None:
            share = min(-(-self._files.qsize() // len(self._threads)), self._limits.batch - 1)
            jobs = [job]
            while len(jobs) <= share:
                try:
                    job = self._files.get_nowait()
                except queue.Empty:
                    break
                if job is None:  # it is another thread's
                    self._files.put(None)
                    break
                jobs.append(job)
            jobs = [job for job in jobs if not job.request.future.done()]
            while jobs:  # nearly always of one network
                same = [job for job in jobs if job.request.served is jobs[0].request.served]
                jobs = [job for job in jobs if job.request.served is not same[0].request.served]
                self._decode(same)
            self._compute()

    def _decode(self, jobs: list[_Job]) -> None:
        try:
            inputs, reasons = jobs[0].request.served.decode([job.file for job in jobs])
        except Exception as error:  # memory, say: the thread lives on
            self._deliver([(job, Answer(_one_line("the image cannot be decoded", error), True)) for job in jobs])
            return
        bad = [(job, Answer(reason)) for job, reason in zip(jobs, reasons, strict=True) if reason]
        for i, job in enumerate(jobs):
            job.inputs, job.file = [pixels[i] for pixels in inputs], b""
        if bad:
            self._deliver(bad)
        with self._lock:
            self._ready.extend(job for job, reason in zip(jobs, reasons, strict=True) if not reason)
            self._lock.notify()

    def _compute(self) -> None:
        """Computes what is ready until nothing is, unless another thread does."""
        with self._lock:
            if self._busy or not self._ready:
                return
            self._busy = True
        while True:
            with self._lock:
                jobs = self._take()
                if not jobs:
                    self._busy = False
                    return
            start = time.perf_counter()
            self._deliver(self._answered(jobs))
            self._observe(len(jobs), time.perf_counter() - start)

    def _take(self) -> list[_Job]:
        """Returns what the next batch consists of. Where padding would be more than a third of it, the rest waits for the next."""
        ready, most = self._ready, self._limits.batch
        if self._latency and ready:
            late = ready[0].came + self._latency - time.monotonic()
            self._lock.wait_for(lambda: len(ready) >= most, max(late, 0))
        count, served = 0, ready[0].request.served if ready else None
        while count < min(len(ready), most) and ready[count].request.served is served:
            count += 1
        below = 1 << max(count.bit_length() - 1, 0)
        if below < count < 1.5 * below:
            count = below
        return [ready.popleft() for _ in range(count)]

    def _answered(self, jobs: list[_Job], inputs: Sequence[np.ndarray] = ()) -> list[tuple[_Job, Answer]]:
        served = jobs[0].request.served
        try:
            p, called, apart = served.answers(
                inputs or [np.stack(of) for of in zip(*(job.inputs for job in jobs), strict=True)]
            )
            rows, whole = p.tolist(), np.isfinite(p).all(1).tolist()
        except Exception as error:  # memory of a device, say: the server lives on
            return [(job, Answer(_one_line("the network has failed", error), True)) for job in jobs]
        return [(job, Answer("", False, q, int(label), far) if fine else Answer("the network's answer is not finite", True))
                for job, q, label, far, fine in zip(jobs, rows, called, apart, whole, strict=True)]  # fmt: skip

    def _deliver(self, answered: list[tuple[_Job, Answer]]) -> None:
        self._loop.call_soon_threadsafe(_set, answered)


def _set(answered: list[tuple[_Job, Answer]]) -> None:
    """Gives answers to their requests; in the loop."""
    for job, answer in answered:
        request = job.request
        request.answers[job.place] = answer
        request.left -= 1
        if not request.left and not request.future.done():
            request.future.set_result(None)


def _one_line(what: str, error: Exception) -> str:
    return f"{what} ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
