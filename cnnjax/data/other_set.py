"""Another labelled set than the one that a network was trained on, to evaluate it."""

import dataclasses
import hashlib
from collections import defaultdict

import numpy as np

from cnnjax.config import Data, Preprocessing
from cnnjax.data import cache, sources
from cnnjax.data.dataset import Dataset
from cnnjax.data.metadata import read_metadata
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted

NAME = "data"  # of the one split that all its images are


def open_other_set(section: Data, preprocessing: Preprocessing, classes: tuple[str, ...], progress: Progress, *, workers: int = 0
                   ) -> Dataset:  # fmt: skip
    """Returns all images of a set, decoded, as the split `NAME`; classes are matched by name, else without regard to capitals.

    Args:
        section: the `data` section that leads to the set.
        preprocessing: of the network.
        classes: of the network.
        progress: gets bars, and lines about classes that one of the two sides lacks.
        workers: threads that decode; 0: one for each usable processor.

    Raises:
        DataError: no class or no image in common, and what `sources.open_source` and `cache.build` raise.
    """
    source = sources.open_source(dataclasses.replace(section, classes=()), progress)
    metadata = read_metadata(section.metadata, source.examples.ids, progress)
    for line in source.notes:
        progress.message(f"  {line}")
    for line in source.warnings:
        progress.warn(line)
    folded = {name.casefold(): i for i, name in enumerate(classes)} | {name: i for i, name in enumerate(classes)}
    number_of = np.array([folded.get(name, folded.get(name.casefold(), -1)) for name in source.classes], np.int32)
    if (number_of < 0).all():
        raise DataError(f"{section.path} has the classes {', '.join(source.classes)}, the network {', '.join(classes)}; rename the folders, or "
                        "the labels of a table")  # fmt: skip
    labels = number_of[source.labels()]
    found = cache.build(source, preprocessing, section.cache_dir, progress, kind=section.cache, workers=workers)
    reasons = found.facts["reason"]
    usable = np.fromiter((not reason for reason in reasons), bool, len(reasons))
    rows = np.flatnonzero(usable & (labels >= 0))
    if strange := [name for name, i in zip(source.classes, number_of, strict=True) if i < 0]:
        count = counted(int((usable & (labels < 0)).sum()), "image")
        progress.warn(f"the network does not know {', '.join(strange)}; {count} left out")
    if missing := [name for i, name in enumerate(classes) if i not in labels[rows]]:
        progress.warn(f"{section.path} has no image of {', '.join(missing)}")
    quarantine = [*source.rejected, *((source.examples[i].id, reasons[i]) for i in np.flatnonzero(~usable))]
    if quarantine:
        progress.warn(f"{counted(len(quarantine), 'file')} left out, such as {quarantine[0][0]} ({quarantine[0][1]})")
    if not len(rows):
        raise DataError(f"no image of {section.path} can be used")
    return Dataset(found.images, labels, source.examples.ids, source.examples.groups, classes, {NAME: rows}, found.facts, quarantine,
                   source.stream, preprocessing=preprocessing, sizes=source.sizes, metadata=metadata)  # fmt: skip


def shared_images(one: Dataset, rows: np.ndarray, other: Dataset, other_rows: np.ndarray) -> int:
    """Counts the images among `rows` whose decoded pixels are, byte for byte, those of one of `other_rows` of another set."""
    known = defaultdict(list)
    for row in other_rows:
        known[_middle(other.images[row])].append(row)
    return sum(
        any(
            np.array_equal(one.images[row], other.images[candidate]) for candidate in known.get(_middle(one.images[row]), ())
        )
        for row in rows
    )


def _middle(image: np.ndarray) -> bytes:
    """A digest of the middle row of an image: of most others it differs, and it is one page to read."""
    return hashlib.blake2b(image[len(image) // 2].tobytes(), digest_size=8).digest()
