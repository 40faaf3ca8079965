"""One verb: evaluate a finished run, or one under way, on a split."""

from pathlib import Path

from cnnjax import data as data_lib
from cnnjax import inference, runs, runtime
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def evaluate(workdir: str | Path, split: str = "test", step: str | int = "best", *, overrides: dict | None = None,
             progress: Progress | None = None) -> dict:  # fmt: skip
    """Evaluates a checkpoint on a split of its run; every image counts once.

    Writes `eval/<split>.json` and `eval/<split>.csv`; for a step other than the best, `eval/<split>-<step>.*`.

    Args:
        workdir: the run directory; its config comes from the checkpoint.
        split: train, val or test.
        step: "best", "latest" or the number of a checkpoint that was kept.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        progress: hears how far it is.

    Returns:
        Loss, accuracy, for two classes auc, sensitivity and specificity, the confusion matrix and numbers per class.

    Raises:
        CheckpointError, DataError: nothing to evaluate, in one line.
    """
    progress, workdir = progress or Progress(), Path(workdir)
    if split not in data_lib.SPLITS:
        raise DataError(f"no split {split!r}; use one of {', '.join(data_lib.SPLITS)}")
    run = inference.restore(workdir, step, overrides)
    if not (workdir / "splits.csv").exists():
        raise DataError(f"{workdir} has no splits.csv, without which a test image cannot be told from a training image")
    summary = workdir / "summary.json"
    if not summary.exists() or runs.read_json(summary).get("stopped") not in ("early", "finished"):
        progress.warn(f"{workdir} has not come to its end; these are its numbers at step {run.step}")
    with runtime.all_or_none():
        data = data_lib.prepare(run.config, workdir, progress, freeze=False, classes=run.classes)
    if not len(data.splits[split]):
        has = ", ".join(name for name in data_lib.SPLITS if len(data.splits[name]))
        raise DataError(f"this run has no {split} split (split.method={run.config.split.method}); use --split=one of {has}")
    name = split if step == "best" else f"{split}-{run.step}"
    result = inference.evaluate_split(run.engine, data, split, batch_size=run.config.data.batch_size,
                                      positive=run.positive, workdir=workdir, name=name, extra={"step": run.step},
                                      progress=progress)  # fmt: skip
    runtime.wait_for_all("evaluated")  # pictures of mistakes can take process 0 longer than the others would wait
    return result
