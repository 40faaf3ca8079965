"""A checkpoint and the images of its run, opened together to look at how the network does on a split."""

from collections.abc import Mapping
from typing import Any

from cnnjax import data as data_lib
from cnnjax import runtime
from cnnjax.errors import DataError
from cnnjax.inference.restoring import RestoredNetwork, restore
from cnnjax.progress import Progress
from cnnjax.runs import RunDirectory


def open_split(run: RunDirectory, split: str, step: str | int, overrides: Mapping[str, Any], *, trust_code: bool,
               progress: Progress) -> tuple[RestoredNetwork, data_lib.Dataset]:  # fmt: skip
    """Restores a checkpoint and opens the images of its run, of which those of `split` are wanted.

    Args:
        run: its directory.
        split: train, val or test.
        step: "best", "latest" or the number of a checkpoint that was kept.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        trust_code: as in `restore`.
        progress: hears what was understood of the data.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: no such split, one without images, or another one than that of the training.
    """
    if split not in data_lib.SPLITS:
        raise DataError(f"no split {split!r}; use one of {', '.join(data_lib.SPLITS)}")
    restored = restore(run.path, step, overrides, trust_code=trust_code)
    if not run.splits.exists():
        raise DataError(f"{run} has no {run.splits.name}, without which a test image cannot be told from a training image")
    say_maker(restored, progress)
    if restored.splits_sha256 != data_lib.splits_digest(run.splits):
        raise DataError(f"{run.splits} is not the split of the checkpoint at step {restored.step}: a test image may be one that it was "
                        "trained on; restore the file")  # fmt: skip
    if not run.has_ended():
        progress.warn(f"{run} has not come to its end; these are its numbers at step {restored.step}")
    with runtime.all_or_none():
        own = own_data(run, restored, overrides, progress)
    if not len(own.splits[split]):
        has = ", ".join(name for name in data_lib.SPLITS if len(own.splits[name]))
        raise DataError(
            f"this run has no {split} split (split.method={restored.config.split.method}); use --split=one of {has}"
        )
    return restored, own


def own_data(
    run: RunDirectory, restored: RestoredNetwork, overrides: Mapping[str, Any], progress: Progress
) -> data_lib.Dataset:
    """Returns the data set of a run. What the run alone says is not fetched from an address: the run may be a stranger's."""
    key, address = data_lib.unfetched(restored.config.data)
    if address and key not in overrides:
        raise DataError(f"{run} names {address} as its data, which is not in this machine's cache, and is not fetched for a run alone; name it "
                        f"with --config.{key}={address}")  # fmt: skip
    return data_lib.prepare(restored.config, run.path, progress, freeze=False, classes=restored.classes)


def say_maker(restored: RestoredNetwork, progress: Progress) -> None:
    """Warns where this process makes other pixels than the network was trained on, and of a calibration of another checkpoint."""
    if warning := restored.preprocessing.maker_differs(data_lib.preprocessing(restored.config.image)):
        progress.warn(warning)
    for line in restored.reading.ignored:
        progress.warn(line)
