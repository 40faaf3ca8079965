"""How XLA compiles: its options for a kind of device, and the directory that keeps the results."""

import contextlib
import functools
import hashlib
import json
import platform
import warnings
from pathlib import Path

import jax
import jaxlib


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
