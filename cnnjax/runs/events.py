"""Event files for TensorBoard."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


class NoEvents:
    """Stands in for `Events` where TensorBoard is off."""

    def __call__(self, row: dict, prefix: str) -> None:
        pass

    def image(self, name: str, make: Callable[[], np.ndarray], step: int) -> None:
        pass

    def close(self) -> None:
        pass


class Events:
    """Writes event files. TensorBoard itself hides rows of an earlier start from the step behind `step` on: those of `step` were saved."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def __call__(self, row: dict, prefix: str) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"{prefix}/{name}", value, row["step"])

    def image(self, name: str, make: Callable[[], np.ndarray], step: int) -> None:
        self._writer.add_image(name, make(), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def open_events(directory: Path, step: int, *, wanted: bool) -> Events | NoEvents:
    """Opens the event files of a run that goes on at `step`, where they are wanted (`log.tensorboard`)."""
    return Events(directory, step) if wanted else NoEvents()
