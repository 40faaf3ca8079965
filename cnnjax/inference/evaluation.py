"""The evaluation of a split: its numbers, a row per image, the images that are worth a look, and how sure the numbers are."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import metrics, runtime
from cnnjax.data import Dataset
from cnnjax.evidence import write_evidence
from cnnjax.inference.engine import Engine
from cnnjax.inference.overlays import NOTHING, choose, write_overlays
from cnnjax.inference.reading import Reading
from cnnjax.inference.thumbnails import remove, worth_a_look, write_thumbnails
from cnnjax.progress import Progress
from cnnjax.runs import Evaluation, RunDirectory, note_look

MOST = 4096  # images of a batch, where training has larger ones and the split has fewer


def split_logits(engine: Engine, data: Dataset, split: str, batch_size: int, progress: Progress) -> np.ndarray:
    """Returns the logits of a split, float32 [images, outputs], in its order; `batch_size` is that of training."""
    rows = data.splits[split]
    with progress.task(f"evaluate {split}", len(rows), "images") as advance:
        return engine.logits_of_rows(data.images, rows, min(batch_size, max(len(rows), MOST)), advance)


def evaluate_split(engine: Engine, data: Dataset, split: str, *, batch_size: int, reading: Reading, run: RunDirectory, name: str, step: int,
                   settings: config_lib.Evidence, progress: Progress, logits: np.ndarray | None = None, explain: bool = True
                   ) -> Evaluation:  # fmt: skip
    """Evaluates a split and writes `eval/<name>.json`, `eval/<name>.csv`, its evidence, thumbnails to `eval/<name>-images`, overlays to
    `eval/<name>-looks`; of other splits than train `eval/<name>-properties.csv` as well.

    Thumbnails show the most confident mistakes and, of the right answers, those whose two best classes are closest; of more than two
    classes also the pairs of classes that are confused most. They are made from the files as they are. Only the main process writes.

    Args:
        engine: network and weights.
        data: images, labels and splits.
        split: train, val or test.
        batch_size: that of training.
        reading: from logits to probabilities and to the class that is called.
        run: where to write.
        name: of the files.
        step: of the checkpoint.
        settings: of the evidence, such as its level of confidence.
        progress: gets a bar.
        logits: those of `split_logits`, where they are known already.
        explain: also show where the network looks, for the mistakes of the thumbnails and for right answers of each class.
    """
    rows, readout = data.splits[split], reading.readout
    if logits is None:
        logits = split_logits(engine, data, split, batch_size, progress)
    called = readout.called(logits)
    numbers = metrics.detailed(logits, data.labels[rows], data.classes, readout.positive, called)
    evaluation = Evaluation.from_dict({"split": split, "step": step, **numbers})
    looks = worth_a_look(data.labels[rows], called, logits, readout)
    seen = (
        choose(engine, data, rows, called, looks["mistakes"], min(batch_size, max(len(rows), MOST))) if explain else NOTHING
    )
    if not runtime.is_main():
        return evaluation
    header = ("id", "group", "label", "predicted", *(f"{kind}_{c}" for kind in "zp" for c in data.classes))
    run.write_rows(run.predictions(name), header, _predictions(data, rows, logits, readout))
    if split != "train":
        run.write_rows(run.properties(name), *data_lib.properties(data, rows))
    originals = data.originals({int(rows[i]) for some in (*looks.values(), seen.order) for i in some})
    thumbnails = write_thumbnails(run.thumbnails(name), looks, data, rows, logits, readout, called, originals)
    remove(run.overlays(name))
    explained = write_overlays(run.overlays(name), seen, data, rows, logits, readout, called, originals) if explain else None
    if explained and explained.reason:
        progress.message(f"{split}: no pictures of where the network looks: {explained.reason}")
    evaluation = dataclasses.replace(evaluation, **thumbnails, explained=explained)
    run.write_evaluation(name, evaluation)
    made = write_evidence(run, name, settings)
    if split not in ("train", "val"):
        note_look(run, name, step, len(rows))
        if made.threshold and (missed := metrics.asked_text(made.threshold, split)):
            progress.warn(missed)
    return evaluation


def _predictions(data: Dataset, rows: np.ndarray, logits: np.ndarray, readout: metrics.Readout) -> Iterator[tuple]:
    """Yields id, group, label, called class, logits as the network gives them and probabilities of each of `rows`.

    Where two classes share a logit, that of the second, the first has 0.
    """
    for part in metrics.slices(logits):
        own, z, p = rows[part], np.asarray(logits[part]), readout.probabilities(logits[part])
        if z.shape[1] == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        told = (data.ids[i] for i in own), (data.groups[i] for i in own), data.labels[own], readout.called(logits[part])
        for id, group, label, called, raw, q in zip(*told, z, p.tolist(), strict=True):
            yield id, group, data.classes[label], data.classes[called], *raw, *q
