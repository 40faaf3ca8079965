"""Patience and plateaus, by scripted losses."""

import pytest

from cnnjax import metrics
from cnnjax.config import AUTO, Train
from cnnjax.errors import ConfigError, TrainingError
from cnnjax.training.early_stopping import MONITORS, EarlyStopping, best_text, check_monitor, score_of
from cnnjax.training.epochs import epochs_between


def after(val_losses, **options):
    stopping = EarlyStopping(**options)
    for epoch, loss in enumerate(val_losses, 1):
        stopping.update(8 * epoch, loss)
    return stopping


def test_an_equal_loss_is_not_a_lower_one():
    stopping = after([0.9, 0.5, 0.6, 0.5])
    assert (stopping.best_step, stopping.best_score, stopping.wait, stopping.evaluated) == (16, 0.5, 2, 32)


@pytest.mark.parametrize(("patience", "spent"), [(0, False), (2, True), (3, True), (4, False)])
def test_patience_is_spent_after_its_epochs_and_none_is_endless(patience, spent):
    assert after([0.5, 0.6, 0.7, 0.8]).is_spent(patience) == spent


def test_the_rate_drops_after_more_than_its_patience_and_then_waits_anew():
    stopping, dropped = EarlyStopping(), []
    for epoch, loss in enumerate([0.9, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9], 1):
        stopping.update(epoch, loss)
        dropped.append(stopping.drop(1))
    assert dropped == [False, False, True, False, False, True, False]
    assert stopping.wait == 3


def test_evaluations_some_epochs_apart_count_these():
    stopping = EarlyStopping()
    stopping.update(16, 0.5, 2)
    stopping.update(32, 0.6, 2)
    assert not stopping.is_spent(3) and stopping.is_spent(2) and stopping.drop(1)


@pytest.mark.parametrize(
    ("epochs", "every", "between"), [(30, 1, 1), (30, 4, 4), (50, AUTO, 1), (78, AUTO, 2), (300, AUTO, 6)]
)
def test_auto_evaluates_fifty_times_at_most(epochs, every, between):
    assert epochs_between(Train(epochs=epochs, evaluate_every=every)) == between


def test_a_monitor_is_any_number_of_an_epoch_with_its_direction():
    assert MONITORS == (
        "val_loss",
        "val_balanced_accuracy",
        "val_accuracy",
        "val_auc",
        "val_sensitivity",
        "val_specificity",
        "last",
    )
    assert score_of("val_loss", {"loss": 0.3}, 8) == 0.3 and score_of("val_auc", {"auc": 0.9}, 8) == -0.9
    assert best_text("val_loss") == "lowest val_loss" and best_text("val_auc") == "highest val_auc"


def test_a_monitor_that_is_not_defined_says_which_are():
    with pytest.raises(TrainingError, match="val_auc is not defined .* use one of val_loss, val_accuracy"):
        score_of("val_auc", {"images": 3, "loss": 0.3, "accuracy": 1.0, "auc": None}, 8)
    check_monitor("val_auc", 2)
    with pytest.raises(
        ConfigError, match="not with 3 classes; use one of val_loss, val_balanced_accuracy, val_accuracy, last$"
    ):
        check_monitor("val_auc", 3)


def test_every_metric_of_an_epoch_can_be_a_monitor():
    assert all(metrics.METRICS[name.removeprefix("val_")].each_epoch for name in MONITORS[:-1])


def test_the_last_epoch_is_the_best_where_that_is_asked_for():
    stopping = EarlyStopping()
    for step, loss in ((8, 0.5), (16, 0.7), (24, 0.9)):
        stopping.update(step, score_of("last", {"loss": loss}, step))
        assert stopping.best_step == step and not stopping.is_spent(1) and best_text("last") == ""
    check_monitor("last", 5)
