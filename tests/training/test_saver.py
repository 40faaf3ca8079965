"""When checkpoints are due, and a run's memory in their metadata."""

import json
import math
import threading

import pytest
from small_loops import BATCH, TRAIN, small_loop

from cnnjax import runs, training
from cnnjax.checkpoints import opened
from cnnjax.training.early_stopping import EarlyStopping
from cnnjax.training.saver import Saver, recalled, remembered
from cnnjax.training.stopwatch import Stopwatch


def saver(every, saved=-1):
    return Saver(None, None, runs.NoHistory(), {}, EarlyStopping(), Stopwatch(), every, saved)


@pytest.mark.parametrize(("step", "due", "left"), [(0, False, 5), (4, False, 1), (5, True, 5), (12, False, 3)])
def test_checkpoints_by_steps_are_due_at_their_multiples(step, due, left):
    assert (saver("5 steps").is_due(step), saver("5 steps").steps_until_due(step)) == (due, left)


def test_checkpoints_by_the_clock_are_due_after_their_seconds(monkeypatch):
    one = saver("10 min")
    assert not one.is_due(7) and one.steps_until_due(7) == math.inf
    monkeypatch.setattr(one, "_saved_at", -601.0)
    assert one.is_due(7) and not one.is_due(0)


def test_an_epoch_is_the_only_interval_of_epoch():
    assert not saver("epoch").is_due(7) and saver("epoch").steps_until_due(7) == math.inf


def test_the_memory_of_a_run_survives_json_in_the_form_of_old_checkpoints():
    stopping, watch = EarlyStopping(evaluated=8, wait=1), Stopwatch(seconds=3.5, spent={"step": 1.0})
    early = json.loads(json.dumps(remembered(stopping, watch), allow_nan=False))
    assert list(early) == ["evaluated", "best_score", "best_step", "wait", "drop_wait", "seconds", "train_seconds",
                           "train_images", "spent"]  # fmt: skip
    assert early["best_score"] is None
    assert recalled(early) == (stopping, watch)
    early["best_loss"] = early.pop("best_score")  # as older checkpoints call it
    assert recalled(early) == (stopping, watch)


class Going(training.Observer):
    """Lets the checkpoint of the first epoch be written only after steps of the second have come back."""

    def __init__(self, place, end, written):
        self._first, self._end, self._written = place / "checkpoints" / str(end), end, written
        self.steps = {}

    def step_logged(self, row):
        self.steps[row["step"]] = self._first.exists()
        if row["step"] == self._end + 4:
            self._written.set()


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    context, written, end = opened._context, threading.Event(), TRAIN // BATCH

    def slow():
        made = context()
        made.asynchronous.post_finalization_callback = lambda: written.wait(20)  # before the files have their name
        return made

    monkeypatch.setattr(opened, "_context", slow)
    going = Going(tmp_path / "run", end, written)
    with small_loop(tmp_path / "run", going, train__epochs=2, log__every=1) as loop:
        loop.run()
    assert [going.steps[end + i] for i in range(1, 5)] == [False] * 4
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")) == [end, 2 * end]
