"""TPUs that are not here: their topologies as meshes to compile for, and what their chips have."""

import dataclasses
import re

import jax
import numpy as np
from jax.sharding import AxisType

from cnnjax.errors import ConfigError

EXAMPLES = "v4:2x2x2, v5e:2x4, v5p:2x2x2, v6e:4x4, or v5e:4x4@2 for two slices"
FORM = re.compile(r"[a-z0-9]+:\d+(x\d+)*(@\d+)?")
# Else libtpu asks the service that describes the TPU of a machine, and complains where there is none.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "4",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip. Sources are Google Cloud's pages of each TPU, and for links https://jax-ml.github.io/scaling-book/tpus.

    Attributes:
        memory: bytes.
        products: bfloat16 operations a second.
        bandwidth: bytes a second of its memory.
        link: bytes a second to a neighbour, in one direction.
    """

    memory: int
    products: float
    bandwidth: float
    link: float


CHIPS = {
    "v4": Chip(32 << 30, 275e12, 1.23e12, 45e9),
    "v5e": Chip(16 << 30, 197e12, 0.82e12, 45e9),
    "v5p": Chip(95 << 30, 459e12, 2.77e12, 90e9),
    "v6e": Chip(32 << 30, 918e12, 1.64e12, 90e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        mesh: as of `runtime.mesh`; its devices compile and do not compute.
        kind: as they call themselves.
        slices: groups that only a network of hosts connects.
        device: share of a chip that each of them is: half of one of v4, which has two cores.
    """

    mesh: jax.sharding.Mesh
    kind: str
    slices: int
    device: Chip


def topology(text: str, *, fsdp: int = 1) -> Topology:
    """Returns the devices of a topology. libtpu looks for the TPU of this machine unless the environment says not to; see `WITHOUT_TPU`.

    Args:
        text: "v5e:2x4", or "v5e:2x4@2" for two slices of that.
        fsdp: devices among which parameters are divided.

    Raises:
        ConfigError: libtpu is not installed, it does not know this topology, or `fsdp` does not divide its devices.
    """
    if not FORM.fullmatch(text):
        raise ConfigError(f"--topology={text}: write a TPU and the chips along its axes, such as {EXAMPLES}")
    kind, _, slices = text.partition(":")[0], *text.partition("@")[1:]
    if kind not in CHIPS:
        raise ConfigError(f"--topology={text}: {kind} is none of {', '.join(CHIPS)}; write {EXAMPLES}")
    from jax.experimental import topologies

    try:
        given = {"num_slices": int(slices)} if slices else {}
        devices = topologies.get_topology_desc(platform="tpu", topology_name=text.partition("@")[0], **given).devices
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0].partition(": ")[2][:200]
        raise ConfigError(f"--topology={text}: {why}; write {EXAMPLES}") from None
    except Exception:  # JAX names no class for a library that is missing
        raise ConfigError(
            "--topology compiles with libtpu, which is not here or is none that this JAX takes: pip install 'cnnjax[tpu-aot]'"
        ) from None
    if len(devices) % fsdp:
        fits = " or ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
        raise ConfigError(
            f"mesh.fsdp={fsdp} does not divide the {len(devices)} devices of {text}; use --config.mesh.fsdp={fits}"
        )
    cores = len(devices) // len({(getattr(device, "slice_index", 0), *device.coords) for device in devices})
    chip = CHIPS[kind]
    device = Chip(chip.memory // cores, chip.products / cores, chip.bandwidth / cores, chip.link / cores)
    mesh = jax.sharding.Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return Topology(mesh, devices[0].device_kind, int(slices or 1), device)
