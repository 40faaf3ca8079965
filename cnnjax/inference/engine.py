"""A trained network at work: logits of many images, and a split's evaluation. Shared by training and its follow-ups."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from cnnjax.checkpoints import store as checkpoints
from cnnjax.config import tree as config_lib
from cnnjax.data import columns
from cnnjax.data import images as images_lib
from cnnjax.data.dataset import Dataset
from cnnjax.metrics import scores as metrics
from cnnjax.progress import Progress
from cnnjax.runs import directory as rundir
from cnnjax.runtime import processes as runtime
from cnnjax.training import feeds as pipeline
from cnnjax.training import state, steps

# Evaluation goes in batches of up to so many of training's, of up to so many pixels together: without gradients there is
# memory for them, and fewer batches cost less around them.
BATCHES = 4
PIXELS = 2**21


@dataclasses.dataclass(frozen=True)
class Engine:
    """A compiled network with its weights.

    Attributes:
        run: logits function from `steps.compile_logits`.
        model: {"params", "stats"} on the mesh.
        mesh: its devices.
    """

    run: Callable
    model: dict
    mesh: jax.sharding.Mesh

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, 3] -> float32 [n, outputs]; padded to a power of two that the devices divide."""
        count = 1 << max(len(images) - 1, 0).bit_length()
        count = -(-count // self.mesh.size) * self.mesh.size
        padded = images
        if count > len(images):
            padded = np.zeros((count, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
        if runtime.is_distributed():
            padded = pipeline.put(padded, runtime.batched(self.mesh))  # else quicker by the call itself
        return np.asarray(self.run(self.model, padded))[: len(images)]

    def logits_of_rows(self, images: np.ndarray, rows: np.ndarray, batch_size: int,
                       advance: Callable[[int], None] = lambda n: None) -> np.ndarray:  # fmt: skip
        """Logits of `rows` of the cache, each once and in order: float32 [rows, outputs], mapped. `batch_size` is that of
        training."""
        batch_size = -(-batch_size // self.mesh.size) * self.mesh.size
        batch_size *= min(max(PIXELS // (batch_size * images.shape[1] ** 2), 1), BATCHES)
        batches = pipeline.EvalBatches(images, rows, batch_size=batch_size, process_index=jax.process_index(),
                                       process_count=jax.process_count())  # fmt: skip
        pending = None
        with columns.Spool(np.float32) as out:
            for batch in pipeline.iterate(batches):
                current = self.run(self.model, pipeline.put(batch, runtime.batched(self.mesh)))
                # Fetched one batch late, so that the device always has work.
                if pending is not None:
                    out.write(np.asarray(pending).ravel())
                    advance(batch_size)
                pending = current
            out.write(np.asarray(pending).ravel())
            advance(len(rows) - batch_size * (len(batches) - 1))
            return out.mapped().reshape(len(batches) * batch_size, -1)[: len(rows)]


def evaluate_split(engine: Engine, data: Dataset, split: str, *, batch_size: int, positive: int, workdir: Path,
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
    rundir.write_rows(
        workdir / "eval" / f"{name}.csv",
        ("id", "group", "label", "predicted", *(f"p_{c}" for c in data.classes)),
        _predictions(data, rows, logits),
    )
    result |= _thumbnails(data, rows, logits, workdir / "eval" / f"{name}-images")
    rundir.write_json(workdir / "eval" / f"{name}.json", result)
    return result


def _predictions(data: Dataset, rows: np.ndarray, logits: np.ndarray) -> Iterator[tuple]:
    """Id, group, label, predicted class and probabilities of each of `rows`."""
    for part in metrics.slices(logits):
        own, p = rows[part], metrics.probabilities(logits[part])
        told = data.ids.take(own), data.groups.take(own), data.labels[own], p.argmax(1), p.tolist()
        for id, group, label, best, q in zip(*told, strict=True):
            yield id, group, data.classes[label], data.classes[best], *q


LOOK_AT = 12


def _thumbnails(data: Dataset, rows: np.ndarray, logits: np.ndarray, directory: Path) -> dict[str, list[dict]]:
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
            image = images_lib.thumbnail(originals.get(int(rows[i]), data.images[rows[i]]))
            suffix = ".png" if image.startswith(images_lib.PNG_SIGNATURE) else ".jpg"
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


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint brought back to predict with.

    Attributes:
        engine: network and weights.
        config: as trained, with the caller's overrides.
        classes: names in the order of the probabilities.
        positive: index of the positive class of a two-class task.
        step: which checkpoint.
    """

    engine: Engine
    config: object
    classes: tuple[str, ...]
    positive: int
    step: int


def restore(workdir: str | Path, step: str | int = "best", overrides: dict | None = None) -> Restored:
    """Restores the network of a run on this process's devices, whatever devices trained it.

    Args:
        workdir: a run directory, wherever it was moved.
        step: "best", "latest" or a number.
        overrides: config values to change, such as {"data.path": ...}.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
    """
    with checkpoints.Checkpoints(workdir) as saved:
        step = saved.resolve(step)
        metadata = saved.metadata(step)
        config = config_lib.from_dict(metadata["config"], overrides)
        mesh = runtime.mesh(config.runtime.devices)
        network = state.network(config, len(metadata["classes"]))
        model = state.evaluated(**saved.load_model(step, network.abstract(mesh, ema=bool(config.train.ema_decay))))
    engine = Engine(steps.compile_logits(network, mesh), model, mesh)
    return Restored(engine, config, tuple(metadata["classes"]), metadata["positive"], step)
