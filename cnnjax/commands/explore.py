"""One verb: look at the data, and at what augmentation makes of it, before anything is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from cnnjax import augmentation, pages, runs, runtime, training
from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax.errors import CheckpointError, Stopped
from cnnjax.pages import Augmented, Photo, Sample
from cnnjax.progress import Progress, counted

SHOWN_CLASSES = 20  # classes with photos; counts are of all
SAMPLE = 1000  # images of each class behind mean images and colour histograms
NINE = 9


def explore(config: config_lib.Config, workdir: str | Path, *, progress: Progress | None = None,
            stop: Callable[[], bool] = lambda: False) -> Path:  # fmt: skip
    """Writes `explore.html`, which needs no other file, and its pictures as PNG to `explore/`.

    Images that are not cached are decoded. The split is that of `splits.csv`, else the one that training will make. Nothing that a
    run depends on is written.

    Args:
        config: from `load_config`.
        workdir: where the page goes; the directory of a run is as good as any. Of a run with another config the page goes to
            `workdir`-explored.
        progress: hears what happens.
        stop: polled while decoding and between sections.

    Returns:
        The page.

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true.
    """
    progress, run = progress or Progress(), runs.RunDirectory(workdir)
    config = training.with_weights(config, run, progress, loads=False)
    config = training.with_batch_size(config, run, progress)
    try:
        run.finished(config)
    except CheckpointError:  # its page is of other data, or of another augmentation
        run = runs.RunDirectory(f"{run}-explored")
        progress.warn(f"{workdir} holds a run with another config: the page goes to {run}")
    run.check_apart(config)
    with runs.begun(run.path):
        runs.check_writable(run.path, "use another --workdir")
        pages.check_replaceable(run.exploration)  # before minutes of work
        data = data_lib.prepare(config, run.path, progress, freeze=False, stop=stop)
    pictures, sections = pages.Pictures(run.exploration_pictures), []
    with progress.task("explore", 7, "sections") as advance:

        def add(section: Callable, *inputs) -> None:
            if stop():
                raise Stopped("stopped before the page was whole; the same command starts it again")
            sections.append(section(*inputs, pictures))
            advance(1)

        add(pages.classes_section, data)
        add(pages.groups_section, data, config.data.group, SHOWN_CLASSES)
        add(pages.files_section, data, config.image)
        samples = collect_samples(data, config.seed)
        add(pages.photos_section, samples, max(len(data.classes) - SHOWN_CLASSES, 0))
        add(pages.colours_section, samples, SAMPLE)
        add(pages.augmentation_section, collect_augmented(config, data, samples))
        add(pages.processing_section, samples[:2])
    title = f"Run {config.name}. {counted(len(data.used), 'image')} of {len(data.classes)} classes, seen by the network at {'×'.join(map(str, config.image.shape))} pixels."
    pages.write_page(run.exploration, pages.Page(f"{config.name}: the data", title, sections))
    return run.exploration


def collect_samples(data: data_lib.Dataset, seed: int) -> list[Sample]:
    """Draws images of the first classes from the training images: nobody should grow used to the test images."""
    rng, train = np.random.default_rng(seed), data.splits["train"]
    rows = [rng.permutation(train[data.labels[train] == label]) for label in range(len(data.classes))]
    chosen = {label: own for label, own in enumerate(rows[:SHOWN_CLASSES]) if len(own)}
    originals = data.originals([int(row) for own in chosen.values() for row in own[:NINE]])
    samples = []
    for label, own in chosen.items():
        pixels = data.images[np.sort(own[:SAMPLE])]
        counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])
        samples.append(Sample(
            name=data.classes[label],
            label=label,
            originals=[originals.get(int(row), data.images[row]) for row in own[:NINE]],
            seen=data.images[own[:NINE]],
            mean=np.round(pixels.mean(0)).astype(np.uint8),
            levels=counts / counts.sum(1, keepdims=True),
            count=len(pixels),
        ))  # fmt: skip
    return samples


def collect_augmented(config: config_lib.Config, data: data_lib.Dataset, samples: Sequence[Sample]) -> Augmented:
    """Runs augmentation as step 0 of a training run does, on its first batch and on the samples."""
    rows = data.splits["train"]
    mesh = runtime.mesh(config.runtime.devices)
    batch_size = training.choose_batch_size(config, mesh, len(rows))
    first = training.batches_of(config, data, batch_size)[0]
    augment = training.compile_augmentation(config, runtime.ops(config.runtime, runtime.platform_of(mesh)))
    images, targets = augment(np.int32(0), first)
    weight = np.asarray(targets.weight)
    photos = []
    for i in range(min(len(images), 12)):
        own, other = (data.classes[int(which[i])] for which in (targets.labels, targets.partners))
        photos.append(Photo(_levels(images[i]), own, f"{weight[i]:.0%}, the rest {other}" if weight[i] < 1 else ""))
    standard = config_lib.default().augment
    chosen = ", ".join(f"{key}={value}" for key, value in config.augment.items() if value != standard[key])
    if images.dtype == np.uint8:
        return Augmented(chosen, False, photos)
    repeated = {}
    for sample in samples:
        batch = {
            "image": np.repeat(sample.seen[:1], len(first["image"]), axis=0),
            "label": np.full(len(first["label"]), sample.label, np.int32),
        }
        out, _ = augment(np.int32(0), batch)
        repeated[sample.name] = [Photo(_levels(out[i]), sample.name, f"position {i}") for i in range(min(NINE, len(out)))]
    return Augmented(chosen, True, photos, repeated, _alone(config, samples[0].seen[:1]))


def _alone(config: config_lib.Config, image: np.ndarray) -> dict[str, list[Photo]]:
    """Applies each operation alone, at the ends of its range, to uint8 [1, size, size, 3]."""
    key, shown = jax.random.key(config.seed), {}
    for name, ends in augmentation.extremes(config.augment).items():
        shown[name] = [Photo(image[0], "as it is")]
        for label, numbers in ends:
            shown[name].append(Photo(_levels(augmentation.apply(image, numbers, config.augment, key)[0]), label))
    return shown


def _levels(image) -> np.ndarray:
    """Returns uint8 levels of a float image in [0, 255]."""
    return np.clip(np.round(np.asarray(image)), 0, 255).astype(np.uint8)
