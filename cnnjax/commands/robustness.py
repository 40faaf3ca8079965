"""Measures what changes of the images cost a trained network: blur, noise, light, colour, resolution, compression."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import evidence, inference, metrics, runtime
from cnnjax.progress import Progress
from cnnjax.runs import Changed, Robustness, RunDirectory, note_look

MOST = 2000  # images that are looked at


def robustness(workdir: str | Path, split: str = "test", step: str | int = "best", *, overrides: Mapping[str, Any] | None = None,
               trust_code: bool = False, progress: Progress | None = None) -> Robustness:  # fmt: skip
    """Evaluates a checkpoint on changed images of a split of its run, up to 2,000 drawn at random with a fixed seed.

    Writes `eval/<split>-robustness.json`; for a step other than the best `eval/<split>-<step>-robustness.json`.

    Args:
        workdir: the run directory; its config comes from the checkpoint.
        split: train, val or test.
        step: "best", "latest" or the number of a checkpoint that was kept.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.
        progress: hears how far it is.

    Returns:
        Accuracy, and sensitivity and specificity of two classes or balanced accuracy of more, of the images as they are and after each
        change, and the differences with paired intervals.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: no such split, or other images than those of the run.
    """
    progress, run = progress or Progress(), RunDirectory(workdir)
    restored, own = inference.open_split(run, split, step, overrides or {}, trust_code=trust_code, progress=progress)
    level, batch_size = restored.config.evidence.level, restored.config.data.batch_size
    every = own.splits[split]
    rows = np.sort(np.random.default_rng(0).permutation(every)[:MOST])
    labels, groups = own.labels[rows], metrics.Groups.of(own.groups.take(rows), evidence.unit_of(restored.config.data))
    rated = metrics.rated(labels, len(own.classes), restored.positive)
    clean = restored.reading.readout.called(restored.engine.logits_of_rows(own.images, rows, batch_size)) == labels
    found = []
    with progress.task(f"change {split}", inference.CHANGES, "changes") as advance:
        for name, logits in inference.corrupted(own.images, rows, restored.engine, batch_size):
            right = restored.reading.readout.called(logits) == labels
            scores = {key: metrics.rate(right, parts, groups, level) for key, parts in rated.items()}
            changes = {key: metrics.change(clean, right, parts, groups, level) for key, parts in rated.items()}
            found.append(Changed(name=name, scores=scores, changes=changes))
            advance(1)
    result = Robustness(
        split=split, step=restored.step, images=len(rows), of=len(every), level=level,
        positive=own.classes[restored.positive] if restored.positive >= 0 else "",
        threshold=restored.reading.readout.threshold,
        clean={key: metrics.rate(clean, parts, groups, level) for key, parts in rated.items()}, rows=tuple(found),
    )  # fmt: skip
    if runtime.is_main():
        if split not in ("train", "val"):
            note_look(run, f"{split}-robustness", restored.step, len(rows))
        run.write_json(run.robustness(split if step == "best" else f"{split}-{restored.step}"), result.to_dict())
    runtime.wait_for_all("changed")
    return result
