"""This process: its devices, its mesh, and the request to stop."""

import os
import signal

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnjax.errors import ConfigError


def mesh(devices: int = 0, *, divides: int = 0) -> jax.sharding.Mesh:
    """A mesh of one axis, "data", over local devices.

    Args:
        devices: how many; 0: all.
        divides: a batch size that the devices must share evenly; 0: any.

    Raises:
        ConfigError: more devices than there are, or a batch that does not divide.
    """
    have = jax.local_devices()
    if devices > len(have):
        raise ConfigError(f"runtime.devices={devices}, but there are {len(have)}; use --config.runtime.devices=0 for all")
    count = devices or len(have)
    if divides and divides % count:
        fits = max(count, round(divides / count) * count)
        raise ConfigError(f"data.batch_size={divides} does not divide among {count} devices; "
                          f"use --config.data.batch_size={fits} or --config.runtime.devices=1")  # fmt: skip
    # Auto: under the default, Explicit, per-image gathers of a sharded batch are refused.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=have[:count])


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def describe(mesh: jax.sharding.Mesh) -> str:
    """One line about the devices."""
    first = mesh.devices.flat[0]
    cores = f", {os.cpu_count()} cores" if first.platform == "cpu" else ""
    return f"{mesh.size} x {first.device_kind}{cores}, jax {jax.__version__}"


class StopFlag:
    """Set by SIGTERM or SIGINT; polled by training. A second SIGINT stops at once.

    Use as a context manager around the work; called, it says whether to stop.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
