"""Where the time goes."""

import pytest

from cnnjax.training import stopwatch as stopwatch_lib
from cnnjax.training.stopwatch import Meter, Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: clock.now."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(stopwatch_lib, "time", clock)
    return clock


def test_seconds_go_on_over_starts_and_laps(clock):
    watch = Stopwatch(seconds=5.0)
    clock.now += 2
    watch.start()
    clock.now += 3
    watch.stop_lap()
    assert watch.seconds == 8.0
    clock.now += 1
    assert watch.now() == 9.0


def test_blocks_are_added_by_their_kind(clock):
    watch = Stopwatch()
    for _ in range(2):
        with watch.clock("step"):
            clock.now += 1.5
    watch.add("input", 0.5)
    assert watch.spent == {"step": 3.0, "input": 0.5}


def test_the_speed_counts_from_the_first_compilation(clock):
    meter, watch = Meter(), Stopwatch()
    meter.images = 64
    clock.now += 30  # the compiler
    meter.restart()
    meter.images += 128
    clock.now += 2
    assert meter.speed() == 64
    assert meter.finish(watch) == {"seconds": 32.0, "images_per_second": 64.0}
    assert (watch.train_seconds, watch.train_images, watch.images_per_second()) == (2, 128, 64)
