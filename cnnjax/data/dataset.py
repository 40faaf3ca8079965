"""A run's data: source, cache and frozen split put together, with everything awkward accounted for on the way."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax import runs
from cnnjax.config import Image, Preprocessing
from cnnjax.data import cache as cache_lib
from cnnjax.data import duplicates, sources
from cnnjax.data import images as images_lib
from cnnjax.data import splits as splits_lib
from cnnjax.data.columns import Column
from cnnjax.data.duplicates import Copies, kept_together
from cnnjax.data.encoded import EncodedImages
from cnnjax.data.examples import Source
from cnnjax.data.images import PIXELS_BY
from cnnjax.data.listings import Reference
from cnnjax.data.metadata import read_metadata
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted

NAMES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")  # of most images, in small letters


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Decoded, labelled and split images.

    Attributes:
        images: uint8 [all, height, width, 3], memory-mapped, or decoded when they are indexed.
        labels: int32 [all].
        ids, groups: one text per image.
        classes: names in label order.
        splits: split name -> int64 rows of `images`, in the order of `splits.csv`.
        facts: width, height, format and mode of each file, and why it cannot be used, as text.
        quarantine: (id, reason) of what was left out.
        stream: see `Source`.
        notes: lines about what was understood, decided and left out.
        sizes: int64 rows -> bytes of their files; None where no listing tells.
        metadata: name of a column of `data.metadata` -> a text for each image.
        copies: pictures that are there more than once, where the split has asked for them.
        key: of the decoded images: the same for the same pixels in the same order.
    """

    images: np.ndarray | EncodedImages
    labels: np.ndarray
    ids: Column
    groups: Column
    classes: tuple[str, ...]
    splits: dict[str, np.ndarray]
    facts: dict[str, Column]
    quarantine: list[tuple[str, str]]
    stream: Callable[[], Iterator[tuple[int, Reference]]]
    notes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None  # that made `images`
    sizes: Callable[[np.ndarray], Sequence[int]] | None = None
    metadata: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    copies: Copies | None = None
    key: str = ""

    @property
    def used(self) -> np.ndarray:
        """int64 rows of all splits, sorted."""
        return np.sort(np.concatenate(list(self.splits.values())))

    def originals(self, rows: Iterable[int]) -> dict[int, np.ndarray]:
        """The images of `rows` as they are in their files: row -> uint8 [h, w, 3]; those that are gone are left out."""
        wanted, found = set(rows), {}
        with contextlib.suppress(Exception):  # of an archive that was damaged since: zlib.error and LZMAError among them
            for row, reference in self.stream():
                if row in wanted:
                    with contextlib.suppress(Exception):
                        found[row] = images_lib.decode(reference.read(), self.preprocessing.range)
                    wanted.discard(row)
                if not wanted:
                    break
        return found

    def counts(self, split: str) -> str:
        """One line: images, groups and images per class of a split."""
        rows = self.splits[split]
        per_class = np.bincount(self.labels[rows], minlength=len(self.classes))
        groups = len({self.groups[i] for i in rows} - {""})
        shown = ", ".join(f"{name} {n:,}" for name, n in zip(self.classes[:6], per_class, strict=False))
        more = ", ..." if len(self.classes) > 6 else ""
        return counted(len(rows), "image") + (f" of {counted(groups, 'group')}" if groups else "") + f" ({shown}{more})"


def preprocessing(image: Image) -> Preprocessing:
    """Returns the preprocessing of an `image` section where this process makes the pixels."""
    library, version = PIXELS_BY
    return Preprocessing.of(image, library=library, version=version)


def prepare(config, workdir: Path, progress: Progress, *, freeze: bool, stop: Callable[[], bool] = lambda: False,
            classes: tuple[str, ...] | None = None,
            decoding: Callable[[int, int], None] = lambda classes, images: None) -> Dataset:  # fmt: skip
    """Opens the source, decodes what is not cached, and reads or makes the split.

    Args:
        config: the whole tree.
        workdir: holds `splits.csv`; the file of an earlier command, or of a user, is used as it is.
        progress: gets bars and notes.
        freeze: write `splits.csv` and `quarantine.csv`.
        stop: polled while decoding.
        classes: names that must be found, in this order: a checkpoint's. The range of its high-bit files is `image.range` then, and
            is not looked for.
        decoding: called before images are decoded, where any must be, with the number of classes and, as far as it can be told
            without a look at them, of training images.

    Raises:
        DataError: too many bad files, a group on two sides of a grouped split, a split of other images, and what
            `sources.open_source`, `cache.build` and `splits.assign` raise.
    """
    source = sources.open_source(config.data, progress)
    if classes is not None and source.classes != classes:
        raise DataError(f"the data has the classes {', '.join(source.classes)}, the checkpoint {', '.join(classes)}; "
                        "name the data it was trained on with --config.data.path=PATH")  # fmt: skip
    for line in source.notes:
        progress.message(f"  {line}")
    for line in source.warnings:
        progress.warn(line)
    metadata = read_metadata(config.data.metadata, source.examples.ids, progress)
    run = runs.RunDirectory(workdir)
    path = run.splits

    def begin() -> None:
        named = np.fromiter((id.lower().endswith(NAMES) for id in source.examples.ids), bool)
        likely = named if named.any() else ~named
        with contextlib.suppress(DataError):  # it is said once it is known which files are good
            expected = _splits(path, source, likely, config.split, Progress(), write=False)
            decoding(len(source.classes), len(expected["train"]))

    made_by = preprocessing(config.image)
    build = functools.partial(cache_lib.build, source, directory=config.data.cache_dir, progress=progress,
                              kind=config.data.cache, workers=config.runtime.workers, stop=stop)  # fmt: skip
    cache = build(made_by, decoding=begin)
    reasons = cache.facts["reason"]
    usable = np.fromiter((not reason for reason in reasons), bool, len(reasons))
    bad = [(source.examples[i].id, reasons[i]) for i in np.flatnonzero(~usable)]
    quarantine = sorted({*source.rejected, *bad})
    if freeze:
        run.write_rows(run.quarantine, ("id", "reason"), quarantine)
    if quarantine:
        kinds = Counter(reason.partition(" (")[0].partition(":")[0] for _, reason in quarantine)
        where = f"; see {run.quarantine}" if freeze else ""
        reasons = ", ".join(f"{n} {r}" for r, n in kinds.most_common())
        progress.warn(f"{counted(len(quarantine), 'file')} left out ({reasons}){where}")
    _check_quarantine(quarantine, len(source.examples) + len(source.rejected), config.data.max_bad_fraction)
    made, notes = not path.exists(), [*source.notes, *source.warnings]
    copies = _copies(source, usable, cache.images, config) if made else None
    splits = _splits(path, source, usable, config.split, progress, write=freeze, copies=copies)
    if copies is not None and (line := kept_together(copies, splits)):
        notes.append(line)
        progress.message(f"  {line}")
    if made:
        notes.append(splits_lib.reason(config.split, source.examples, [name for name in splits if len(splits[name])]))
        progress.message(f"  {notes[-1]}")
    if classes is None and not made_by.range and (found := _levels(cache.facts, splits["train"])):
        levels, count = found
        some = (
            "" if count == len(splits["train"]) else f"{count:,} of {counted(len(splits['train']), 'training image')} are "
        )
        notes.append(f"{some}grey files with more than 8 bits: {levels[0]:g} becomes black and {levels[1]:g} white, as the training images "
                     "have them (image.range)")  # fmt: skip
        progress.message(f"  {notes[-1]}")
        made_by = dataclasses.replace(made_by, range=levels)
        cache = build(made_by)
    if shared := _shared_groups(source, splits):  # not a note: the report finds it in `splits.csv`
        progress.warn(shared)
    return Dataset(cache.images, source.labels(), source.examples.ids, source.examples.groups, source.classes, splits,
                   cache.facts, quarantine, source.stream, tuple(notes), made_by, source.sizes, metadata, copies, cache.key)  # fmt: skip


def _check_quarantine(quarantine: Sequence[tuple[str, str]], files: int, most: float) -> None:
    """Raises DataError where too many of the files cannot be used. One alone is never too many, unless `most` is 0."""
    if len(quarantine) > (max(most * files, 1) if most else 0):
        raise DataError(
            f"{len(quarantine):,} of {files:,} files cannot be used ({quarantine[0][0]}: {quarantine[0][1]}), more than "
            f"data.max_bad_fraction={most:g}; fix them or raise "
            f"--config.data.max_bad_fraction={math.ceil(1000 * len(quarantine) / files) / 1000:g}"
        )


def _levels(facts: dict[str, Column], rows: np.ndarray) -> tuple[tuple[float, float], int] | None:
    """The lowest and the highest level of the grey files with more than 8 bits among `rows`, and their number; None without any."""
    found = [
        (float(low), float(high)) for low, high in zip(facts["low"].take(rows), facts["high"].take(rows), strict=True) if low
    ]
    lows, highs = zip(*found, strict=True) if found else ((0.0,), (0.0,))
    return ((min(lows), max(highs)), len(found)) if min(lows) < max(highs) else None


def _shared_groups(source: Source, splits: dict[str, np.ndarray]) -> str:
    """A warning of groups in more than one split; "" without any."""
    if not any(source.examples.groups):
        return ""
    groups = itertools.chain.from_iterable(source.examples.groups.take(rows) for rows in splits.values())
    names = itertools.chain.from_iterable([name] * len(rows) for name, rows in splits.items())
    both = splits_lib.shared_groups(groups, names)
    if not both:
        return ""
    group, sides = min(both.items())
    return (f"{counted(len(both), 'group')} in more than one split, such as {group} in {' and '.join(sorted(sides))}: the numbers will be "
            "better than on new groups; --config.split.method=grouped keeps groups apart")  # fmt: skip


def _copies(source: Source, usable: np.ndarray, images: np.ndarray | EncodedImages, config) -> Copies | None:
    """Pictures that are there more than once, where a new split is to keep them together."""
    method = splits_lib.resolved(config.split.method, source.examples)
    if not config.split.keep_duplicates_together or config.split.file or method.startswith("tutorial"):
        return None
    return duplicates.find(images, np.flatnonzero(usable), most=duplicates.QUICK, turns=config.audit.turns)


def _splits(path: Path, source: Source, usable: np.ndarray, config, progress: Progress, *, write: bool, copies: Copies | None = None
            ) -> dict[str, np.ndarray]:  # fmt: skip
    """Rows of each split, by the file at `path` or made anew; `usable` is bool [examples]."""
    good = np.flatnonzero(usable)
    if path.exists():
        return _frozen(path, source, good, config, progress)
    examples = source.examples.where(usable)
    same = None
    if copies is not None:
        grouped = splits_lib.resolved(config.method, examples) != "stratified" and all(examples.groups)
        same, line = duplicates.together(copies, good, list(examples.groups) if grouped else ())
        if line:
            progress.warn(line)
    assigned = splits_lib.assign(examples, source.classes, config, progress.warn, same)
    if write:
        splits_lib.write(path, examples, assigned, source.classes)
    return splits_lib.by_split(good, assigned)


def _positions(ids: Iterable[str], known: Sequence[str]) -> Iterator[int]:
    """Where each of `ids` stands in `known`, which is sorted; -1: nowhere."""
    at = -1
    for id in ids:
        at += 1  # most come one after the other
        if at == len(known) or known[at] != id:
            at = min(bisect.bisect_left(known, id), len(known) - 1)
        yield at if known[at] == id else -1


def _frozen(path: Path, source: Source, good: np.ndarray, config, progress: Progress) -> dict[str, np.ndarray]:
    rows, examples = splits_lib.read(path), source.examples
    position = np.fromiter(_positions(rows.ids, examples.ids), np.int64, len(rows))
    known = np.isin(position, good)
    if not known.all():
        missing = np.flatnonzero(~known)
        raise DataError(f"the data is without {counted(len(missing), 'image')} of {path}, such as {rows.ids[missing[0]]!r}; name the data "
                        "of this run with --config.data.path=PATH, or start another with --workdir=DIR")  # fmt: skip
    if len(np.unique(position)) < len(rows):
        raise DataError(f"{path} names an image twice; restore it or use another --workdir")
    wrong = (row for row, i in zip(rows, position, strict=True) if source.classes[examples.labels[i]] != row[1])
    for id, label, *_ in wrong:
        raise DataError(f"{path} says that {id!r} is {label}, its folder says otherwise; restore it or use "
                        "another --workdir")  # fmt: skip
    if config.method == "grouped":
        known = (examples.groups[i] for i in position)
        both = splits_lib.shared_groups(rows.groups, rows.splits) | splits_lib.shared_groups(known, rows.splits)
        if both:
            group, sides = min(both.items())
            raise DataError(f"{path} has {counted(len(both), 'group')} in more than one split, such as {group} in "
                            f"{' and '.join(sorted(sides))}; restore it or use another --workdir")  # fmt: skip
    if len(rows) < len(good):
        progress.warn(f"{counted(len(good) - len(rows), 'image')} left out, not in {path}")
    found = splits_lib.by_split(position, rows.splits)
    empty = [name for name in ("train", "val") if not len(found[name])]
    if empty:
        raise DataError(f"{path} has no image for {' and '.join(empty)}; restore it or use another --workdir")
    return found
