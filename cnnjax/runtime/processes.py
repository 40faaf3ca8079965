"""This process among others: its devices, its mesh, and how parameters and batches lie on it."""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnjax.errors import ConfigError, DataError, PeerError, Stopped, TrainingError, UserError
from cnnjax.kernels import blocks as kernels_lib

SHARDED = 2**12  # numbers; smaller arrays are whole on every device, with mesh.fsdp too
HUGE_PAGE = 2 << 20  # bytes
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
LEAVE = 15  # seconds that a process waits for the others to leave too
AGAIN = "start all of them again, they continue from the last checkpoint"

_memory = {"text": ""}  # what `keep_memory` has done, for the line about the devices

# What this process says, and its exit code, where JAX ends it.
_last_words = {"text": f"another process of this run is gone, or JAX has failed (TF_CPP_MIN_LOG_LEVEL=0 shows how); {AGAIN}",
               "code": 1}  # fmt: skip


_speaking = threading.Lock()


def end(problem: object, code: int) -> None:
    """Says why and ends this process at once, from any thread; of several that call this, the first is heard.

    The other processes hear of it by its silence.
    """
    with _speaking:
        os.write(2, "".join(f"error: {line}\n" for line in str(problem).splitlines()).encode())
        os._exit(code)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number):
    end(_last_words["text"], _last_words["code"])


def connect(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Makes this process one of several. To be called before anything else uses JAX.

    Args:
        coordinator: HOST:PORT of process 0; "": found, as the other two, from the environment of Slurm, Open MPI, Kubernetes
            or Cloud TPU.
        processes: how many there are.
        process: which of them this is.

    Raises:
        PeerError: the others did not come, or the environment says nothing.
    """
    # Once a process is lost, a thread of JAX aborts the others; it takes no callback from Python.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    # Its handler of SIGTERM would take the place of ours, and nothing would be saved.
    jax.config.update("jax_enable_preemption_service", False)
    given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process} if coordinator else {}
    try:
        jax.distributed.initialize(**given, initialization_timeout=300, heartbeat_timeout_seconds=HEARTBEAT,
                                   shutdown_timeout_seconds=LEAVE)  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PeerError(f"cannot join the other processes ({reason}); start all of them with the same --coordinator=HOST:PORT "
                        "and --num_processes, each with its own --process_id") from None  # fmt: skip


def divide_cpu(config) -> None:
    """Makes a CPU as many devices as suit a run, before anything else uses JAX.

    XLA's own threads share out what is small badly: with 64 images of 32 pixels a step on two devices takes 0.70 of the time that
    it takes on one with two threads; with 32 images of 180 pixels, 1.15. So this is for up to 64 pixels, with 16 images for each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    batch, count = config.data.batch_size, 1
    while 2 * count <= cores and batch % (2 * count) == 0 and batch // (2 * count) >= 16:
        count *= 2
    native = config.runtime.kernels != "xla" and kernels_lib.available()  # they share out their work themselves
    if not native and config.image.size <= 64 and not config.runtime.devices and config.mesh.fsdp == 1:
        jax.config.update("jax_num_cpu_devices", count)


def keep_memory(config) -> bool:
    """Lets this process keep the memory that it has freed, on huge pages where the system gives them; whether it does.

    XLA takes the memory of a step anew for each, and on a CPU the system then clears all its pages again: with 32 images of
    180 pixels a step takes 0.78 of the time with memory that is kept, 0.75 on huge pages. All threads share one arena, or glibc
    gives back what others held: with augmentation a step takes 0.71. glibc only; before the large arrays, and before threads.
    """
    if not config.runtime.keep_memory or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Of mallopt and madvise, as <malloc.h> and <sys/mman.h> number them.
    arena_max, map_max, trim_threshold, huge_page = -8, -4, -1, 14
    if not (libc.mallopt(arena_max, 1) and libc.mallopt(map_max, 0) and libc.mallopt(trim_threshold, -1)):
        return False
    # The heap grows once by a quarter of the machine's memory, which costs nothing until it is used, to be advised.
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    size = size // HUGE_PAGE * HUGE_PAGE
    block = libc.aligned_alloc(HUGE_PAGE, size)
    advised = bool(block) and libc.madvise(block, size, huge_page) == 0
    libc.free(block)
    with contextlib.suppress(OSError):
        allowed = "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        _memory["text"] = ", memory kept on huge pages" if advised and allowed else ", memory kept"
    return True


def kernels(config) -> str:
    """What computes the layers that `cnnjax.kernels` knows: its instruction set, or "xla".

    Raises:
        ConfigError: runtime.kernels=native where they cannot be used.
    """
    chosen = config.runtime.kernels
    if chosen == "xla" or (chosen == "auto" and jax.default_backend() != "cpu"):
        return "xla"
    reason = f"this process runs on {jax.default_backend()}" if jax.default_backend() != "cpu" else kernels_lib.why_not()
    if reason and chosen == "native":
        raise ConfigError(f"runtime.kernels=native: {reason}; use --config.runtime.kernels=auto")
    return "xla" if reason else kernels_lib.instruction_set()


@functools.cache
def compiler_options(platform: str, once: bool = False) -> dict[str, str | int]:
    """Options of XLA for a kind of device: for steps, or for what a run computes `once`.

    On a CPU convolutions are left to Eigen: the step of 32 images of 180 pixels takes 0.67 of the time, that of 32 pixels the
    same. What runs once is compiled with less care, in a third of the time.
    """
    if platform != "cpu":
        return {}
    kinds = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("INDIVIDUAL_DOT", "REDUCE"))
    options = {"xla_backend_optimization_level": 1} if once else {"xla_cpu_experimental_ynn_fusion_type": kinds}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # a version that has no such option
        return {}
    return options


def keep_compiled(cache_dir: str | Path) -> None:
    """Keeps what XLA compiles in `cache_dir`, apart for each kind of processor and version of JAX, unless JAX has a place set."""
    if jax.config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(OSError):  # what a binary of another machine does is not defined
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kind = [line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))]
        kind = json.dumps([kind, platform.machine(), jax.__version__, jaxlib.__version__])
        place = Path(cache_dir).expanduser() / "compiled" / hashlib.sha256(kind.encode()).hexdigest()[:16]
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # it compiles again


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


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error of JAX is a lack of memory on the device."""
    return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def readable_shortage(advice: str) -> Iterator[None]:
    """A lack of memory on the device as TrainingError, with the advice."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        wanted = re.search(r"allocat\w+ (\d+) bytes|allocate ([\d.]+ ?[KMGT]?i?B)", str(error))
        size = f" for {int(wanted[1]) / 1e9:,.1f} GB" if wanted and wanted[1] else f" for {wanted[2]}" if wanted else ""
        raise TrainingError(f"no memory left on the device{size}; {advice}") from error


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


def check_same(what: str, *arrays: np.ndarray) -> None:
    """Raises DataError in every process where the arrays of one differ from those of another."""
    if not is_distributed():
        return
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()[:4]
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    if len(np.unique(found)) > 1:
        raise DataError(f"the processes see different {what}; give all of them the same files, with --config.data.path=PATH "
                        "on storage that every host sees")  # fmt: skip


def mesh(devices: int = 0, *, fsdp: int = 1, divides: int = 0) -> jax.sharding.Mesh:
    """A mesh of two axes, "data" and "fsdp", over the devices of all processes.

    Args:
        devices: of each process; 0: all.
        fsdp: devices among which parameters are divided; the rest hold copies.
        divides: a batch size that the devices must share evenly; 0: any.

    Raises:
        ConfigError: more devices than there are, or a batch or `fsdp` that does not divide.
    """
    have = jax.local_device_count()
    if devices > have:
        raise ConfigError(f"runtime.devices={devices}, but there are {have}; use --config.runtime.devices=0 for all")
    chosen: list[jax.Device] = []
    for process in range(jax.process_count()):
        own = [device for device in jax.devices() if device.process_index == process]
        chosen += own[: devices or len(own)]
    count = len(chosen)
    if count % fsdp:
        fits = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise ConfigError(
            f"mesh.fsdp={fsdp} does not divide the {count} devices; use --config.mesh.fsdp={' or '.join(fits)}"
        )
    if divides and divides % count:
        fits = max(count, round(divides / count) * count)
        fewer = "" if is_distributed() else " or --config.runtime.devices=1"
        raise ConfigError(f"data.batch_size={divides} does not divide among {count} devices; "
                          f"use --config.data.batch_size={fits}{fewer}")  # fmt: skip
    # Auto: under the default, Explicit, per-image gathers of a sharded batch are refused.
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=chosen)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis is divided among all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def placed(mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How a parameter, its moments or its average lie: divided along the longest axis that `fsdp` divides, or whole."""
    fsdp = mesh.shape["fsdp"]
    fits = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fits or np.prod(shape) < SHARDED:
        return replicated(mesh)
    axis = max(fits, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))


def steps_at_once(mesh: jax.sharding.Mesh) -> int:
    """Updates per dispatch where the images lie on the device. Within a loop XLA compiles convolutions badly for a CPU."""
    return 1 if mesh.devices.flat[0].platform == "cpu" else 32


def free_image_bytes() -> int:
    """Bytes of a device that its images may take: 40 % of what is free, on the fullest of all processes' first devices, for all
    must decide alike; 0 where memory is the host's anyway."""
    device = jax.local_devices()[0]
    known = device.memory_stats() if device.platform != "cpu" else None
    megabytes = int(0.4 * (known["bytes_limit"] - known["bytes_in_use"])) >> 20 if known and "bytes_limit" in known else 0
    return int(multihost_utils.process_allgather(np.int32(megabytes)).min() if is_distributed() else megabytes) << 20


def describe(mesh: jax.sharding.Mesh) -> str:
    """One line about the devices."""
    first = mesh.devices.flat[0]
    cores = f", {os.cpu_count()} cores{_memory['text']}" if first.platform == "cpu" else ""
    processes = f" in {jax.process_count()} processes" if is_distributed() else ""
    return f"{mesh.size} x {first.device_kind}{processes}{cores}, jax {jax.__version__}"
