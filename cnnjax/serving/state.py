"""The state that the answers of a server share."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from cnnjax.serving.batches import Batches
from cnnjax.serving.limits import Limits
from cnnjax.serving.measures import Measures
from cnnjax.serving.served import Served
from cnnjax.serving.tokens import Tokens


@dataclasses.dataclass
class State:
    """The state of a server, which its event loop alone changes.

    Attributes:
        limits: of what clients may use.
        tokens: who may use it; none: everybody.
        measures: its numbers.
        say: tells the log something that is not as it should be.
        reload: loads the network again; returns a status of HTTP and a line.
        served: the network; None before it is loaded.
        is_ready: whether requests are answered, and more are welcome.
        in_flight: requests for predictions that are answered or wait.
        loop: the event loop; None before it runs, as the next one.
        batches: the threads that decode and compute.
        drawing: the thread that draws where the network looks.
    """

    limits: Limits
    tokens: Tokens
    measures: Measures
    say: Callable[[str], None]
    reload: Callable[[], Awaitable[tuple[int, str]]]
    served: Served | None = None
    is_ready: bool = False
    in_flight: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    batches: Batches | None = None
    drawing: ThreadPoolExecutor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(1, "drawing"))

    @property
    def infer_path(self) -> str:
        """The address of inference requests; "" before there is a network."""
        return f"/v2/models/{self.served.name}/infer" if self.served else ""
