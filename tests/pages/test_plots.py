"""Charts."""

from cnnjax.pages import plots


def test_curves_of_one_epoch_are_marked_with_whole_epochs():
    row = {"epoch": 1, "step": 8, "val_accuracy": 0.5, "accuracy": 0.5}
    axes = plots.curves({"run": [row]}, "accuracy", {"run": 8}).axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())
