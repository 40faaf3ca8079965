"""Evaluates a checkpoint of a run on one of its splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import data as data_lib
from cnnjax import inference, runtime
from cnnjax.errors import DataError
from cnnjax.progress import Progress
from cnnjax.runs import Evaluation, RunDirectory


def evaluate(workdir: str | Path, split: str = "test", step: str | int = "best", *,
             overrides: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Evaluation:  # fmt: skip
    """Evaluates a checkpoint on a split of its run; every image counts once.

    Writes `eval/<split>.json` and `eval/<split>.csv`; for a step other than the best, `eval/<split>-<step>.*`.

    Args:
        workdir: the run directory; its config comes from the checkpoint.
        split: train, val or test.
        step: "best", "latest" or the number of a checkpoint that was kept.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        progress: hears how far it is.

    Returns:
        The numbers of the split, the confusion matrix, numbers per class, and images that are worth a look.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: nothing to evaluate, or other images than those of the run.
    """
    progress, run = progress or Progress(), RunDirectory(workdir)
    if split not in data_lib.SPLITS:
        raise DataError(f"no split {split!r}; use one of {', '.join(data_lib.SPLITS)}")
    restored = inference.restore(workdir, step, overrides)
    if not run.splits.exists():
        raise DataError(f"{run} has no {run.splits.name}, without which a test image cannot be told from a training image")
    if restored.splits_sha256 != data_lib.splits_digest(run.splits):
        raise DataError(f"{run.splits} is not the split of the checkpoint at step {restored.step}: a test image may be one that it was "
                        "trained on; restore the file")  # fmt: skip
    if not run.has_ended():
        progress.warn(f"{run} has not come to its end; these are its numbers at step {restored.step}")
    if warning := restored.preprocessing.maker_differs(data_lib.preprocessing(restored.config.image)):
        progress.warn(warning)
    with runtime.all_or_none():
        data = data_lib.prepare(restored.config, run.path, progress, freeze=False, classes=restored.classes)
    if not len(data.splits[split]):
        has = ", ".join(name for name in data_lib.SPLITS if len(data.splits[name]))
        raise DataError(
            f"this run has no {split} split (split.method={restored.config.split.method}); use --split=one of {has}"
        )
    name = split if step == "best" else f"{split}-{restored.step}"
    evaluation = inference.evaluate_split(
        restored.engine, data, split, batch_size=restored.config.data.batch_size, positive=restored.positive, run=run,
        name=name, step=restored.step, progress=progress)  # fmt: skip
    runtime.wait_for_all("evaluated")  # pictures of mistakes can take process 0 longer than the others would wait
    return evaluation
