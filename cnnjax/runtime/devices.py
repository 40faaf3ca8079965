"""The devices of this process: the mesh, shardings of parameters and batches, and a line that describes them."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnjax.cpus import cores, quota_text, usable_cpus
from cnnjax.errors import ConfigError
from cnnjax.kernels import CpuOps, Ops, available, why_not
from cnnjax.runtime import memory
from cnnjax.runtime.processes import is_distributed

SHARDED = 2**12  # numbers; smaller arrays are replicated on every device, with mesh.fsdp too


def divide_cpu(config) -> None:
    """Makes a CPU as many devices as suit a run, before anything else uses JAX.

    XLA's own threads share out what is small badly: with 64 images of 32 pixels a step on two devices takes 0.70 of the time that
    it takes on one with two threads; with 32 images of 180 pixels, 1.15. So this is for up to 64 pixels, with 16 images for each.
    """
    usable = usable_cpus()
    batch, count = 32 if config.data.auto_batch else config.data.batch_size, 1
    while 2 * count <= usable and batch % (2 * count) == 0 and batch // (2 * count) >= 16:
        count *= 2
    native = config.runtime.kernels != "xla" and available()  # they share out their work themselves
    if not native and max(config.image.shape) <= 64 and not config.runtime.devices and config.mesh.fsdp == 1:
        jax.config.update("jax_num_cpu_devices", count)


def ops(section, platform: str) -> Ops:
    """Returns the operations for steps that are compiled for a platform, wherever this process runs.

    Args:
        section: the `runtime` section; its `kernels` is auto, native or xla.
        platform: of the mesh's devices: cpu, gpu, tpu, ...; see `platform_of`.

    Raises:
        ConfigError: runtime.kernels=native where the kernels cannot be used.
    """
    chosen = section.kernels
    if chosen == "xla" or (chosen == "auto" and platform != "cpu"):
        return Ops()
    reason = f"the step is compiled for {platform}" if platform != "cpu" else why_not()
    if reason and chosen == "native":
        raise ConfigError(f"runtime.kernels=native: {reason}; use --config.runtime.kernels=auto")
    return Ops() if reason else CpuOps()


def platform_of(mesh: jax.sharding.Mesh) -> str:
    """Returns the platform that steps for a mesh are compiled for: cpu, gpu, tpu, ..."""
    return mesh.devices.flat[0].platform


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
        processes = jax.process_count()
        fewer = [n for n in range(count // processes, 0, -1) if divides % (n * processes) == 0 and n * processes % fsdp == 0]
        also = f"use --config.runtime.devices={fewer[0]}, with which a run that has begun goes on, or " if fewer else "use "
        raise ConfigError(f"data.batch_size={divides} does not divide among {count} devices; {also}--config.data.batch_size={fits} for "
                          "a new run")  # fmt: skip
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
    """Returns the updates per dispatch for images stored on the device. Within a loop XLA compiles convolutions badly for a CPU."""
    return 1 if platform_of(mesh) == "cpu" else 32


def device_bytes() -> tuple[int, int]:
    """Bytes of a device, and those of them that are free: the least of all processes' first devices, for all must decide alike; zeros
    where memory is the host's anyway."""
    device = jax.local_devices()[0]
    known = device.memory_stats() if device.platform != "cpu" else None
    limit, used = (known["bytes_limit"], known["bytes_in_use"]) if known and "bytes_limit" in known else (0, 0)
    megabytes = np.array([limit, limit - used]) >> 20
    if is_distributed():
        megabytes = multihost_utils.process_allgather(megabytes.astype(np.int32)).min(0)
    return int(megabytes[0]) << 20, int(megabytes[1]) << 20


def describe(mesh: jax.sharding.Mesh) -> str:
    """One line about the devices."""
    first = mesh.devices.flat[0]
    processors = f", {cores()} cores{quota_text()}{memory.kept['text']}" if first.platform == "cpu" else ""
    processes = f" in {jax.process_count()} processes" if is_distributed() else ""
    return f"{mesh.size} x {first.device_kind}{processes}{processors}, jax {jax.__version__}"
