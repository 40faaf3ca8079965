"""Where a run's time goes, and how fast it trains."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

# Kinds of work. "step" is what the loop waits for the devices, augmentation included.
SPENT = ("input", "compile", "step", "evaluation", "checkpoint", "pictures")


@dataclasses.dataclass
class Stopwatch:
    """Seconds of a run over all of its starts; saved with every checkpoint.

    Attributes:
        seconds: of wall clock, until `stop_lap` was last called.
        train_seconds: of them in training steps, compilation apart.
        train_images: images that were trained on in `train_seconds`.
        spent: kind of work, of `SPENT` -> seconds.
    """

    seconds: float = 0.0
    train_seconds: float = 0.0
    train_images: int = 0
    spent: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._since = time.monotonic()

    def start(self) -> None:
        """Starts to count from now."""
        self._since = time.monotonic()

    def stop_lap(self) -> None:
        """Adds to `seconds` what has passed, and goes on."""
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def now(self) -> float:
        """Returns the seconds of wall clock until now."""
        return self.seconds + time.monotonic() - self._since

    @contextlib.contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """Adds the seconds of a block to `spent`."""
        start = time.monotonic()
        yield
        self.add(kind, time.monotonic() - start)

    def add(self, kind: str, seconds: float) -> None:
        """Adds seconds to `spent`."""
        self.spent[kind] = self.spent.get(kind, 0.0) + seconds

    def images_per_second(self) -> float:
        """Returns the speed of training over all starts."""
        return self.train_images / max(self.train_seconds, 1e-9)


class Meter:
    """Measures the speed of one epoch by the images whose metrics have come back."""

    def __init__(self):
        self._start = self._clock = time.monotonic()
        self.images = 0

    def restart(self) -> None:
        """Counts the speed from here: the first step of a process waits for the compiler."""
        self._clock, self.images = time.monotonic(), 0

    def speed(self) -> float:
        """Returns images per second."""
        return self.images / max(time.monotonic() - self._clock, 1e-9)

    def finish(self, stopwatch: Stopwatch) -> dict[str, float]:
        """Adds the epoch to a stopwatch; returns its columns of the history, {"seconds", "images_per_second"}."""
        now = time.monotonic()
        stopwatch.train_seconds += now - self._clock
        stopwatch.train_images += self.images
        speed = self.images / max(now - self._clock, 1e-9)
        return {"seconds": round(now - self._start, 3), "images_per_second": round(speed, 1)}
