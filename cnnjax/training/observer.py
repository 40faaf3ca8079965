"""The interface through which a run under way is watched: training itself draws and prints nothing."""

from collections.abc import Sequence


class Observer:
    """Hears of a run under way, and does nothing: the null object, and the interface."""

    def began(self) -> None:
        """The loop begins."""

    def compiled(self) -> None:
        """The first update has come back; the devices are busy from here."""

    def step_logged(self, row: dict) -> None:
        """A step was logged: {"step", "loss", "accuracy", "learning_rate", "images_per_second"}."""

    def epoch_evaluated(self, row: dict, numbers: dict, *, best: str) -> None:
        """An epoch was evaluated.

        Args:
            row: of the history.
            numbers: name of a metric -> value on validation.
            best: of what the epoch has the best number so far, as "lowest val_loss"; "" where another epoch has.
        """

    def epoch_ended(self, rows: Sequence[dict], best_step: int) -> None:
        """An epoch is in the history and about to be saved.

        Args:
            rows: all rows of the history.
            best_step: step of the best epoch.
        """
