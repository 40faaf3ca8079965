"""The compiled kernels: one library for each instruction set, of which the best that this CPU has is loaded on demand."""

import ctypes
import functools
import hashlib
import platform
from pathlib import Path

import jax

from cnnjax.cpus import cpu_quota, usable_cpus

HANDLERS = {
    "adam": "CnnjaxAdam",
    "conv_forward": "CnnjaxConvForward",
    "conv_backward": "CnnjaxConvBackward",
    "dense_forward": "CnnjaxDenseForward",
    "dense_backward": "CnnjaxDenseBackward",
    "orthogonal": "CnnjaxOrthogonal",
    "sample": "CnnjaxSample",
    "plain_forward": "CnnjaxPlainForward",
    "plain_backward": "CnnjaxPlainBackward",
    "depthwise_forward": "CnnjaxDepthwiseForward",
    "depthwise_backward": "CnnjaxDepthwiseBackward",
    "linked_forward": "CnnjaxLinkedForward",
    "linked_backward": "CnnjaxLinkedBackward",
    "last_norm_forward": "CnnjaxLastNormForward",
    "last_norm_backward": "CnnjaxLastNormBackward",
    "squeeze": "CnnjaxSqueeze",
    "norm_sums": "CnnjaxNormSums",
    "norm_forward": "CnnjaxNormForward",
    "norm_gradient_sums": "CnnjaxNormGradientSums",
    "norm_backward": "CnnjaxNormBackward",
    "max_pool_forward": "CnnjaxMaxPoolForward",
    "max_pool_backward": "CnnjaxMaxPoolBackward",
}
# By machine: the library that every CPU of the kind can load. It knows the instruction sets of this one.
PLAIN = {"x86_64": "sse2", "amd64": "sse2", "aarch64": "neon", "arm64": "neon"}


def available() -> bool:
    """Whether the kernels can be used on the CPU of this machine."""
    return not why_not()


def why_not() -> str:
    """Why there are no kernels, in one line; "" where there are."""
    return _load()[1]


def instruction_set() -> str:
    """Returns the library in use: avx512bf16, avx512, avx2, sse2 or neon; "" where none is."""
    return _load()[0]


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Returns the instruction sets that this CPU has and that are compiled, best first.

    Raises:
        OSError: none is compiled, or it cannot be loaded; the message says why.
    """
    machine = platform.machine().lower()
    if machine not in PLAIN:
        raise OSError(f"there are kernels for x86-64 and aarch64, not for {machine}")
    if not _path(PLAIN[machine]).exists():
        raise OSError("the kernels are not compiled: install a C++17 compiler (g++ or clang++), then install cnnjax again")
    if not _is_current(PLAIN[machine]):
        raise OSError("the kernels are older than their sources: install cnnjax again")
    names = _text(PLAIN[machine], "CnnjaxCpu").split()
    return tuple(name for name in names if _path(name).exists() and _is_current(name))


@functools.cache
def register(name: str) -> None:
    """Makes the library of an instruction set known to XLA, as targets cnnjax_<name>_<handler>. Its calls keep to a quota of processors."""
    library = ctypes.CDLL(str(_path(name)))
    if cpu_quota():
        library.CnnjaxLimitThreads(ctypes.c_int64(usable_cpus()))
    for handler, symbol in HANDLERS.items():
        jax.ffi.register_ffi_target(f"cnnjax_{name}_{handler}", jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")


def limit_threads(most: int | None = None) -> None:
    """Lets each call of a kernel use at most so many threads from now on, in the whole process; None: one for each processor."""
    if name := _load()[0]:
        ctypes.CDLL(str(_path(name))).CnnjaxLimitThreads(ctypes.c_int64(most or usable_cpus()))


def _path(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.so")


def _text(name: str, function: str) -> str:
    """Calls a function without arguments of a library."""
    found = getattr(ctypes.CDLL(str(_path(name))), function)
    found.restype = ctypes.c_char_p
    return found().decode()


def _is_current(name: str) -> bool:
    """Whether a library is made of the sources beside it, as setup.py takes their digest."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cc", ".h"))
    return _text(name, "CnnjaxSources") == hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@functools.cache
def _load() -> tuple[str, str]:
    """The instruction set in use, and why there is none."""
    try:
        name = instruction_sets()[0]
        register(name)
    except (OSError, AttributeError) as error:  # a library that is none, or none of ours
        return "", str(error).splitlines()[0]
    except Exception as error:  # of XLA, where it has another version than the headers had
        return "", f"this version of jaxlib refuses the kernels, install cnnjax again ({str(error).splitlines()[0]})"
    return name, ""
