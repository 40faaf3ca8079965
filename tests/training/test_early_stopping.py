"""Patience and plateaus, by scripted losses."""

import pytest

from cnnjax.training.early_stopping import EarlyStopping


def after(val_losses, **options):
    stopping = EarlyStopping(**options)
    for epoch, loss in enumerate(val_losses, 1):
        stopping.update(8 * epoch, loss)
    return stopping


def test_an_equal_loss_is_not_a_lower_one():
    stopping = after([0.9, 0.5, 0.6, 0.5])
    assert (stopping.best_step, stopping.best_loss, stopping.wait, stopping.evaluated) == (16, 0.5, 2, 32)


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
