"""The evaluation of a split: its numbers, a row per image, and the images that are worth a look."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnjax import data as data_lib
from cnnjax import metrics, runs, runtime
from cnnjax.inference.engine import Engine
from cnnjax.progress import Progress

LOOK_AT = 12


def evaluate_split(engine: Engine, data: data_lib.Dataset, split: str, *, batch_size: int, positive: int, workdir: Path,
                   name: str, extra: dict, progress: Progress) -> dict:  # fmt: skip
    """Evaluates a split and writes `eval/<name>.json` and `.csv`, and thumbnails to `eval/<name>-images`.

    Thumbnails are of the most confident mistakes and, of the others, those whose two best classes are closest, `LOOK_AT` each,
    made from the files as they are; their names are in the JSON file, which is also returned.
    """
    rows = data.splits[split]
    with progress.task(f"evaluate {split}", len(rows), "images") as advance:
        logits = engine.logits_of_rows(data.images, rows, batch_size, advance)
    labels = data.labels[rows]
    result = {"split": split, **extra, **metrics.detailed(logits, labels, data.classes, positive)}
    if not runtime.is_main():
        return result
    runs.write_rows(
        workdir / "eval" / f"{name}.csv",
        ("id", "group", "label", "predicted", *(f"p_{c}" for c in data.classes)),
        _predictions(data, rows, logits),
    )
    result |= _thumbnails(data, rows, logits, workdir / "eval" / f"{name}-images")
    runs.write_json(workdir / "eval" / f"{name}.json", result)
    return result


def _predictions(data: data_lib.Dataset, rows: np.ndarray, logits: np.ndarray) -> Iterator[tuple]:
    """Id, group, label, predicted class and probabilities of each of `rows`."""
    for part in metrics.slices(logits):
        own, p = rows[part], metrics.probabilities(logits[part])
        told = data.ids.take(own), data.groups.take(own), data.labels[own], p.argmax(1), p.tolist()
        for id, group, label, best, q in zip(*told, strict=True):
            yield id, group, data.classes[label], data.classes[best], *q


def _thumbnails(data: data_lib.Dataset, rows: np.ndarray, logits: np.ndarray, directory: Path) -> dict[str, list[dict]]:
    """Writes the images that are worth a look; {"mistakes", "uncertain"} as they stand in the JSON file."""
    highest = np.empty((len(rows), 2))  # the two probabilities that are
    metrics.by_rows(lambda part: np.sort(metrics.probabilities(part), axis=1)[:, -2:], highest, logits)
    second, best = highest.T
    labels, called = data.labels[rows], metrics.called(logits)
    wrong, right = np.flatnonzero(called != labels), np.flatnonzero(called == labels)
    chosen = {
        "mistakes": wrong[np.argsort(-best[wrong], kind="stable")][:LOOK_AT],
        "uncertain": right[np.argsort(best[right] - second[right], kind="stable")][:LOOK_AT],
    }
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    originals = data.originals({int(rows[i]) for some in chosen.values() for i in some})
    looks = {}
    for kind, some in chosen.items():
        looks[kind] = []
        for place, i in enumerate(some):
            image = data_lib.thumbnail(originals.get(int(rows[i]), data.images[rows[i]]))
            suffix = ".png" if image.startswith(data_lib.PNG_SIGNATURE) else ".jpg"
            file = directory / f"{kind}-{place + 1:02}{suffix}"
            file.write_bytes(image)
            looks[kind].append({
                "id": data.ids[rows[i]],
                "label": data.classes[labels[i]],
                "predicted": data.classes[called[i]],
                "probability": float(best[i]),
                "file": f"{directory.name}/{file.name}",
            })  # fmt: skip
    return looks
