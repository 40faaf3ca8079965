"""The log of steps, one dispatch late."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import runs
from cnnjax.errors import TrainingError
from cnnjax.training.observer import Observer
from cnnjax.training.requests import Requests
from cnnjax.training.step_log import Dispatched, StepLog


class Rows(runs.NoHistory):
    """Keeps the rows of steps."""

    def __init__(self):
        self.logged = []

    def log(self, row):
        self.logged.append(row)


def begun(every=1):
    rows, notes = Rows(), []
    log = StepLog(
        rows, Observer(), Requests(lambda: 0), every=every, batch_size=8, advice=lambda: "no checkpoint was saved yet"
    )
    log.begin_epoch(np.float32([0.1, 0.2, 0.3]), lambda images, note: notes.append((images, note)))
    return log, rows, notes


def dispatched(last, *losses):
    values = jnp.float32(losses) if len(losses) > 1 else jnp.float32(losses[0])
    return Dispatched(len(losses), last, {"loss": values, "accuracy": values}, None)


def test_steps_are_logged_when_the_next_is_dispatched():
    log, rows, notes = begun()
    assert not log.log(dispatched(1, 0.5)) and not rows.logged
    assert log.log(dispatched(2, 0.25))
    assert [(row["step"], row["loss"], row["learning_rate"]) for row in rows.logged] == [(1, 0.5, 0.1)]
    assert log.flush() and not log.flush()
    assert [row["step"] for row in rows.logged] == [1, 2] and [images for images, _ in notes] == [8, 8]
    assert notes[1][1].startswith("step 2  loss 0.2500  accuracy 0.250")


def test_of_several_updates_at_once_those_that_were_done_are_logged():
    log, rows, notes = begun(every=2)
    values = jnp.float32([3.0, 2.0, 1.0, 0.0])
    log.log(Dispatched(3, 6, {"loss": values, "accuracy": values}, None))
    log.flush()
    assert [(row["step"], row["loss"]) for row in rows.logged] == [(4, 3.0), (6, 1.0)]
    assert notes[0][0] == 24


def test_a_loss_that_is_not_finite_ends_the_log():
    log, rows, _ = begun()
    log.log(dispatched(3, float("nan")))
    with pytest.raises(TrainingError, match="the loss is nan at step 3; no checkpoint was saved yet"):
        log.flush()
    assert not rows.logged
