"""Requests of processes to save or to stop, which all processes must follow at the same step."""

import enum
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import runtime
from cnnjax.inference import put


class Request(enum.IntEnum):
    """A request before a step; the larger of two comes first."""

    NONE = 0
    SAVE = 1
    STOP = 2


class Requests:
    """Requests of a process that is alone: heard at once.

    Attributes:
        lag: steps after a save in which the same request may come back.
    """

    lag = 0

    def __init__(self, ask: Callable[[], Request]):
        self._ask = ask

    def heard(self) -> Request:
        """Returns the request that holds before the next step."""
        return self._ask()

    def send(self) -> jax.Array | None:
        """Sends this process's request along with a step; returns what `receive` takes when the step's metrics are read."""
        return None

    def receive(self, sent: jax.Array | None) -> None:
        """Takes in what came back with the metrics of a step."""


class SharedRequests(Requests):
    """Requests on several processes: the largest of all, read when the metrics of the step are read.

    The devices find the largest in a program of its own, dispatched beside the step. So no process waits for another, and all
    read the same request at the same step.

    Args:
        ask: returns this process's own request.
        mesh: of all processes.
        most: steps of a dispatch.
    """

    def __init__(self, ask: Callable[[], Request], mesh: jax.sharding.Mesh, most: int):
        super().__init__(ask)
        self._sharding, self._count = runtime.batched(mesh), len(mesh.local_devices)
        self._largest = jax.jit(jnp.max, out_shardings=runtime.replicated(mesh))
        self._heard = Request.NONE
        self.lag = 2 * most

    def heard(self) -> Request:
        """Returns the largest request of all processes that is known."""
        return self._heard

    def send(self) -> jax.Array:
        """Dispatches the maximum of all processes' requests: int32 []."""
        return self._largest(put(np.full(self._count, self._ask(), np.int32), self._sharding))

    def receive(self, sent: jax.Array) -> None:
        """Waits for a maximum; it holds from now on."""
        self._heard = Request(int(sent))


def open_requests(ask: Callable[[], Request], mesh: jax.sharding.Mesh, most: int) -> Requests:
    """Returns the requests of this process alone, or of all processes of the run."""
    return SharedRequests(ask, mesh, most) if runtime.is_distributed() else Requests(ask)
