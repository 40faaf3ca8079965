"""The request to stop: set by a signal, polled by the work."""

import signal


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
