"""This process and its machine: devices, memory, compilation, and the other processes of a run."""

from cnnjax.runtime.compilation import compiler_options, keep_compiled
from cnnjax.runtime.devices import (
    batched,
    describe,
    device_bytes,
    divide_cpu,
    mesh,
    ops,
    placed,
    platform_of,
    replicated,
    steps_at_once,
)
from cnnjax.runtime.memory import host_bytes, is_shortage, keep_memory, readable_shortage
from cnnjax.runtime.processes import (
    AGAIN,
    all_or_none,
    check_same,
    connect,
    disconnect,
    end,
    from_main,
    is_distributed,
    is_loss,
    is_main,
    readable_loss,
    told_by_main,
    wait_for_all,
)
from cnnjax.runtime.speed import set_up
from cnnjax.runtime.topologies import WITHOUT_TPU, Topology, topology

__all__ = [
    "AGAIN", "WITHOUT_TPU", "Topology", "all_or_none", "batched", "check_same", "compiler_options", "connect", "describe", "device_bytes", "disconnect", "divide_cpu",
    "end", "from_main", "host_bytes", "is_distributed", "is_loss", "is_main", "is_shortage", "keep_compiled", "keep_memory", "mesh", "ops", "placed",
    "platform_of", "readable_loss", "readable_shortage", "replicated", "set_up", "steps_at_once", "told_by_main", "topology", "wait_for_all",
]  # fmt: skip
