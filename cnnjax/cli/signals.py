"""The request to stop: set by a signal, polled by the work; or Ctrl-C, which ends work that saves nothing wherever it is."""

import signal
from collections.abc import Callable


class StopFlag:
    """Set by SIGTERM or SIGINT; polled by training.

    Use as a context manager around the work; called, it says whether to stop.

    Args:
        at_once: what a second SIGINT does, in the signal's handler.
    """

    def __init__(self, at_once: Callable[[], None]):
        self.requested = False
        self._at_once = at_once
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
            self._at_once()
        self.requested = True


class CtrlC:
    """Raises KeyboardInterrupt as Python does, and remembers it: a library may make another error of it.

    Attributes:
        came: whether there was one.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number, frame) -> None:
        self.came = True
        raise KeyboardInterrupt


CTRL_C = CtrlC()
