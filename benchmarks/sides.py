"""A side of a comparison as the command line sees it: a process that is asked, and how much memory it takes."""

import contextlib
import importlib.util
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.tasks import Settings

ROOT = Path(__file__).resolve().parent.parent

NEEDS = {  # modules without which a peer is left out, and what brings them
    "cnnjax": (("cnnjax", "jax", "flax"), "pip install -e ."),
    "cnnjax-xla": (("cnnjax", "jax", "flax"), "pip install -e ."),  # without its own kernels for CPUs
    "jax": (("jax", "optax"), "pip install jax optax"),
    "keras-tensorflow": (("keras", "tensorflow"), "pip install tensorflow keras"),
    "keras-jax": (("keras", "jax"), "pip install keras jax"),  # and TensorFlow where it reads files
    "torch": (("torch", "torchvision"), "pip install torch torchvision"),
    "torch-compile": (("torch", "torchvision"), "pip install torch torchvision"),
}

# Of each peer beside what all get: huge pages for large tensors, and PyTorch keeps freed memory, as cnnjax does. LOG.md has the numbers;
# `--env` undoes it.
TORCH = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592",
}
ENVIRONMENT: dict[str, dict[str, str]] = {
    "keras-tensorflow": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "torch": TORCH,
    "torch-compile": TORCH,
}


def missing(peer: str) -> str:
    """Returns the first module that a peer lacks here, or ""."""
    return next((name for name in NEEDS[peer][0] if importlib.util.find_spec(name) is None), "")


def environment(peer: str, threads: int, more: dict[str, str]) -> dict[str, str]:
    """Returns the environment of a worker's process."""
    shared = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # All sides stay on one accelerator at once: none may take all of its memory.
    shared |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **shared, **ENVIRONMENT.get(peer, {}), **more}


def _memory(process: int) -> np.ndarray:
    """Returns bytes of a process and its children: [most resident so far, allocated now]; zeros for an ended process."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return np.zeros(2)
    fields = dict(line.split(":", 1) for line in status.splitlines())
    own = np.array([1024 * int(fields.get(name, "0").split()[0]) for name in ("VmHWM", "RssAnon")], float)
    return own + sum(_memory(int(child)) for child in children)


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(BrokenPipeError):  # it is gone already
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class SideError(Exception):
    """A failure of a side, in one line."""


class Side:
    """A worker that lives as long as the comparison.

    Attributes:
        label: its row in the table.
        peer: which of `worker.MODULES`.
        settings: what it is told.
        deadline: of `time.monotonic`; a worker that has not answered by then is ended.
    """

    deadline = math.inf

    def __init__(self, label: str, peer: str, settings: Settings, environment: dict[str, str]):
        self.label, self.peer, self.settings, self._peak = label, peer, settings, np.zeros(2)
        self._environment, self._process = environment, None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def _launch(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks.worker", self.peer, self.settings.to_json(), *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, text=True, bufsize=1, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=self._log)  # fmt: skip

    def _answer(self, process: subprocess.Popen) -> dict:
        while not select.select([process.stdout], [], [], 0.2)[0]:
            self._peak = np.maximum(self._peak, _memory(process.pid))
            if time.monotonic() > self.deadline:
                process.kill()
                raise SideError("it had no time left")
        self._peak = np.maximum(self._peak, _memory(process.pid))
        line = process.stdout.readline()
        if not line:
            process.wait()
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1][:300]
            raise SideError(f"its process ended with {process.returncode}: {last}")
        return json.loads(line)

    def send(self, do: str, **more) -> None:
        """Asks `worker.Desk`; `receive` waits for the answer."""
        self._process = self._process or self._launch()
        with contextlib.suppress(BrokenPipeError):  # the answer tells why
            print(json.dumps({"do": do, **more}), file=self._process.stdin, flush=True)

    def receive(self) -> dict:
        """Returns the answer to what was sent. Raises SideError."""
        answer = self._answer(self._process)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def ask(self, do: str, **more) -> dict:
        """Returns the answer of `worker.Desk`. Raises SideError."""
        self.send(do, **more)
        return self.receive()

    def memory(self) -> dict[str, float]:
        """Returns the peaks so far, of this side and its children, in bytes; sampled five times a second.

        "process": resident, files in memory included; "allocated": without these; "device": in use on the accelerator.
        """
        device = 0 if self._process is None else self.ask("device_memory")["bytes"]
        return {"process": self._peak[0], "allocated": self._peak[1], "device": device}

    def first_step(self) -> float:
        """Returns the seconds from the start of a fresh process to its first finished training step."""
        start = time.perf_counter()
        process = self._launch("first")
        try:
            self._answer(process)
            return time.perf_counter() - start
        finally:
            _end(process)

    def close(self) -> None:
        """Ends the worker."""
        if self._process is not None:
            _end(self._process)
        self._log.close()
