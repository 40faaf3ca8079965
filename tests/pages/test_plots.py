"""Charts."""

import numpy as np

from cnnjax.pages import plots


def test_curves_of_one_epoch_are_marked_with_whole_epochs():
    row = {"epoch": 1, "step": 8, "val_accuracy": 0.5, "accuracy": 0.5}
    axes = plots.curves({"run": [row]}, "accuracy", {"run": 8}).axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_figures_that_are_compared_have_the_same_axes():
    levels = np.full((3, 256), 1 / 256)
    high = np.where(np.arange(256) == 100, 0.5, levels)
    for pair in (plots.colours({"flat": levels, "high": high}),
                 plots.histograms({"Width": {"x": [1, 2, 3]}, "Height": {"x": [5, 5, 5, 9]}}, "pixels")):  # fmt: skip
        one, other = (drawn.axes[0] for drawn in pair)
        assert one.get_ylim() == other.get_ylim() and one.get_xlim() == other.get_xlim() and one.get_ylim()[0] == 0
    assert one.get_ylim()[1] > 3


def test_long_names_leave_room_for_the_bars():
    labels = plots.bars("t", {"x" * 30 + "y" * 30: {"train": 1.0}, "short": {"train": 2.0}}).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["x" * 13 + "…" + "y" * 12, "short"]
