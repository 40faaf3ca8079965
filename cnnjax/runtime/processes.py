"""This process among others: joining and leaving them, their loss, and values that all of them share."""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnnjax.errors import DataError, PeerError, Stopped, UserError
from cnnjax.progress import printable
from cnnjax.runtime.memory import is_shortage

JOIN = 300  # seconds that a process waits for the others to begin
FIRST_WORD, NEXT_WORD = 10, 60  # seconds of waiting after which, and then between which, it is said for whom
HEARTBEAT = 60  # seconds without a sign of life after which a process counts as lost
LEAVE = 15  # seconds that a process waits for the others to leave too
AGAIN = "start all of them again, they continue from the last checkpoint"

# The last words of this process, and its exit code, where JAX ends it.
_last_words = {"text": f"another process of this run is gone, or JAX has failed (TF_CPP_MIN_LOG_LEVEL=0 shows how); {AGAIN}",
               "code": 1}  # fmt: skip


_speaking = threading.Lock()


def end(problem: object, code: int) -> None:
    """Says why and ends this process at once, from any thread; of several that call this, the first is heard.

    The other processes hear of it by its silence.
    """
    with _speaking:
        os.write(2, "".join(f"error: {printable(line)}\n" for line in str(problem).splitlines()).encode())
        os._exit(code)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number):
    end(_last_words["text"], _last_words["code"])


def connect(
    coordinator: str = "", processes: int = 0, process: int = -1, say: Callable[[str], None] = lambda text: None
) -> None:
    """Makes this process one of several. To be called before anything else uses JAX.

    Args:
        coordinator: HOST:PORT of process 0; "": found, as the other two, from the environment of Slurm, Open MPI, Kubernetes
            or Cloud TPU.
        processes: how many there are.
        process: which of them this is.
        say: hears for whom this process waits, from another thread.

    Raises:
        PeerError: the environment says nothing. Where the others do not come within `JOIN` seconds, the process ends.
    """
    # Once a process is lost, a thread of JAX aborts the others; it takes no callback from Python.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    # Its handler of SIGTERM would take the place of ours, and nothing would be saved.
    jax.config.update("jax_enable_preemption_service", False)
    given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process} if coordinator else {}
    try:
        with _waiting(coordinator, processes, process, say):
            jax.distributed.initialize(**given, initialization_timeout=JOIN, heartbeat_timeout_seconds=HEARTBEAT,
                                       shutdown_timeout_seconds=LEAVE)  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PeerError(f"cannot join the other processes ({reason}); start all of them with the same --coordinator=HOST:PORT "
                        "and --num_processes, each with its own --process_id") from None  # fmt: skip


@contextlib.contextmanager
def _waiting(coordinator: str, processes: int, process: int, say: Callable[[str], None]) -> Iterator[None]:
    """Around the joining: says again and again for whom this process waits, also as its last words."""
    come, usual = threading.Event(), _last_words["text"]

    def speak() -> None:
        seconds = FIRST_WORD
        while not come.wait(FIRST_WORD if seconds == FIRST_WORD else NEXT_WORD):
            missing = _missing(coordinator, processes, process)
            _last_words["text"] = f"{missing} did not come within {JOIN} s; start all of them again"
            say(f"waiting for {missing} since {seconds} s; this process ends after {JOIN} s")
            seconds += NEXT_WORD

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        come.set()
        thread.join()
        _last_words["text"] = usual


def _missing(coordinator: str, processes: int, process: int) -> str:
    """Names the processes that may be missing, as far as this one can know."""
    if not coordinator:
        return "other processes of this run"
    if process > 0 and not _answers(coordinator):
        return f"process 0 at {coordinator}"
    others = [number for number in range(processes) if number not in (0, process)]
    if len(others) > 1:
        return f"one or more of the processes {', '.join(map(str, others[:8]))}{', ...' if len(others) > 8 else ''}"
    return f"process {others[0]}" if others else "process 0"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def disconnect(problem: UserError | None = None) -> None:
    """Leaves the others in good order: waits until all of them leave. Where they do not, with `problem`, the process ends."""
    if problem is not None:
        _last_words.update(text=str(problem), code=2)
    if is_distributed():
        jax.distributed.shutdown()


def is_loss(error: BaseException | None) -> bool:
    """Whether an error that surfaced in a call of JAX or Orbax is the loss of another process."""
    if not is_distributed() or is_shortage(error):
        return False
    words = re.search("Gloo|NCCL|coordination service|heartbeat", str(error))  # jit raises these as ValueError
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and words is not None)


@contextlib.contextmanager
def readable_loss() -> Iterator[None]:
    """The loss of another process, which surfaces in any call of JAX, as PeerError."""
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
        reason = str(error).splitlines()[0][:300]
        raise PeerError(f"another process of this run is gone ({reason}); {AGAIN}") from error


def is_distributed() -> bool:
    """Whether this is one of several processes."""
    return jax.process_count() > 1


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process has come to this place."""
    if is_distributed():
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Around work of which every process does its part: where one fails or is stopped, all leave here, none waits for ever."""
    problem = None
    try:
        yield
    except (UserError, Stopped) as error:
        problem = error
    if is_distributed():
        worst = int(
            multihost_utils.process_allgather(np.int32(1 if isinstance(problem, Stopped) else 2 if problem else 0)).max()
        )
        if problem is None and worst:
            problem = (
                Stopped("stopped with another process")
                if worst == 1
                else PeerError("another process cannot go on; it says why")
            )
    if problem is not None:
        raise problem


def from_main(value):
    """The arrays that process 0 has."""
    return multihost_utils.broadcast_one_to_all(value) if is_distributed() else value


def told_by_main(value):
    """Returns the value of JSON that process 0 has."""
    if not is_distributed():
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(from_main(np.int32(len(text))))
    return json.loads(from_main(np.resize(text, size)).tobytes())


def check_same(what: str, *arrays: np.ndarray) -> None:
    """Raises DataError in every process where the arrays of one differ from those of another."""
    if not is_distributed():
        return
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()[:4]
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    if len(np.unique(found)) > 1:
        raise DataError(f"the processes see different {what}; give all of them the same files, with --config.data.path=PATH "
                        "on storage that every host sees")  # fmt: skip
