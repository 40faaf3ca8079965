"""Folds of a cross-validation: every image is once in the part that judges; frozen to `folds.csv`.

Whole groups are dealt into folds of equal shares of every class, else the images of each class are. A fold is the test part of its own
network, the next one chooses the best epoch, and the others are trained on.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cnnjax import runs
from cnnjax.data import cache as cache_lib
from cnnjax.data import duplicates, sources
from cnnjax.data.columns import table
from cnnjax.data.dataset import preprocessing
from cnnjax.data.dealing import order_of, whole_groups
from cnnjax.data.examples import Examples
from cnnjax.data.splits import Rows
from cnnjax.errors import ConfigError, DataError
from cnnjax.progress import Progress, counted

HEADER = ("id", "group", "repeat", "fold")


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """The fold of every image.

    Attributes:
        ids, labels, groups: one text per image.
        parts: int32 [repeats, images], in [0, count).
        count: folds of each repeat.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    parts: np.ndarray
    count: int

    @property
    def names(self) -> list[tuple[int, int]]:
        """(repeat, fold) of every network."""
        return [(repeat, fold) for repeat in range(len(self.parts)) for fold in range(self.count)]

    def split(self, repeat: int, fold: int) -> Rows:
        """Returns the split of one network: its fold is test, the next one val, the others train."""
        part = self.parts[repeat]
        tested, chosen = part == fold, part == (fold + 1) % self.count
        return Rows(self.ids, self.labels, self.groups, np.where(tested, "test", np.where(chosen, "val", "train")).tolist())

    def describe(self, repeat: int, fold: int) -> str:
        """One line: the images and groups of the test fold."""
        rows = np.flatnonzero(self.parts[repeat] == fold)
        groups = len({self.groups[i] for i in rows} - {""})
        return counted(len(rows), "image") + (f" of {counted(groups, 'group')}" if groups else "")


def check_divides(split) -> None:
    """Raises ConfigError for a `split` section that divides the images in another way than into folds."""
    advice = "leave it out: folds are made of all images, in whole groups where there are groups, else by class"
    if split.file:
        raise ConfigError(f"split.file={split.file!r} divides the images, and so would --mode=crossvalidate; {advice}")
    if split.method not in ("auto", "grouped", "stratified"):
        raise ConfigError(f"split.method={split.method!r} divides the images, and so would --mode=crossvalidate; {advice}")


def prepare_folds(config, workdir, progress: Progress, *, freeze: bool, stop: Callable[[], bool] = lambda: False) -> Folds:
    """Opens the source, decodes what is not cached, and reads or makes the folds of all images that can be read.

    Folds depend on `split.seed`, names, labels and groups alone. More repeats than `folds.csv` has are added to it.

    Args:
        config: the whole tree.
        workdir: holds `folds.csv`.
        progress: gets bars and notes.
        freeze: write `folds.csv`.
        stop: polled while decoding.

    Raises:
        ConfigError: another way to divide is set.
        DataError: fewer groups than folds, a class without an image in a fold, `folds.csv` of other data or of other folds, and what
            `sources.open_source` and `cache.build` raise.
    """
    check_divides(config.split)
    source = sources.open_source(config.data, progress)
    cache = cache_lib.build(source, preprocessing(config.image), directory=config.data.cache_dir, progress=progress,
                            kind=config.data.cache, workers=config.runtime.workers, stop=stop)  # fmt: skip
    reasons = cache.facts["reason"]
    usable = np.fromiter((not reason for reason in reasons), bool, len(reasons))
    run, split = runs.RunDirectory(workdir), config.split
    held = read_folds(run) if run.folds_table.exists() else None
    if held and (held.count != split.folds or len(held.parts) > split.repeats):
        raise DataError(f"{run.folds_table} has {held.count} folds and {counted(len(held.parts), 'repeat')}, the config {split.folds} and "
                        f"{split.repeats}; use another --workdir, or --config.split.folds={held.count} "
                        f"--config.split.repeats={len(held.parts)}")  # fmt: skip
    if held:
        usable = _held(run, held, source.examples, usable, progress)
    examples = source.examples.where(usable)
    if not held:
        progress.message(f"  {_reason(split, examples)}")
    begun = len(held.parts) if held else 0
    same = _same(cache.images, np.flatnonzero(usable), config, progress) if begun < split.repeats else None
    made = [_divided(examples, source.classes, split, repeat, same) for repeat in range(begun, split.repeats)]
    parts = np.stack([*(held.parts if held else ()), *made]).astype(np.int32)
    labels = [source.classes[label] for label in examples.labels]
    folds = Folds(examples.ids, labels, examples.groups, parts, split.folds)
    if freeze and made:
        run.write_rows(run.folds_table, HEADER, _rows(folds))
    return folds


def read_folds(run: runs.RunDirectory) -> Folds:
    """Reads `folds.csv`; without labels, which it does not have.

    Raises:
        CheckpointError: it was changed.
        DataError: it is not a table of folds.
    """
    rows = run.read_rows(run.folds_table)
    damaged = f"{run.folds_table} is damaged; restore it or use another --workdir"
    if tuple(next(rows, ())) != HEADER:
        raise DataError(damaged)
    try:
        ids, groups, repeats, folds = table(
            ((i, g, int(r), int(k)) for i, g, r, k in rows), "string", "string", "int32", "int32"
        )
        repeats, folds = repeats.array.to_numpy(), folds.array.to_numpy()
        size = int((repeats == 0).sum())
        parts = folds.reshape(-1, size)
        if not np.array_equal(repeats, np.repeat(np.arange(len(parts)), size)) or len(np.unique(parts)) != parts.max() + 1:
            raise ValueError
    except (ValueError, OverflowError, ZeroDivisionError):
        raise DataError(damaged) from None
    return Folds(ids.array[:size].to_pylist(), (), groups.array[:size].to_pylist(), parts, int(parts.max()) + 1)


def _held(run: runs.RunDirectory, held: Folds, examples: Examples, usable: np.ndarray, progress: Progress) -> np.ndarray:
    """Marks the examples of `folds.csv`, bool [examples]. Raises DataError where the data is without one of them."""
    own = set(held.ids)
    known = usable & np.fromiter((id in own for id in examples.ids), bool, len(examples))
    found = list(examples.where(known).ids)
    if found != held.ids:
        missing = own - set(found)
        raise DataError(f"the data is without {counted(len(missing), 'image')} of {run.folds_table}, such as {min(missing, default='')!r}; name the "
                        "data of this cross-validation with --config.data.path=PATH, or start another with --workdir=DIR")  # fmt: skip
    if left := int(usable.sum() - known.sum()):
        progress.warn(f"{counted(left, 'image')} left out, not in {run.folds_table}")
    return known


def _reason(split, examples: Examples) -> str:
    """One line about how the images are divided."""
    method, count = _method(split, examples), split.folds
    how = {"grouped": "whole groups", "stratified": "images of each class"}[method]
    ignored = "; the set's own parts are not used" if any(examples.splits) else ""
    times = f", {split.repeats} times anew" if split.repeats > 1 else ""
    return (f"the {how} are divided into {count} folds{times}: of each network one is test, the next one val, and the rest "
            f"train (split.train, split.val and split.test have no part in it){ignored}")  # fmt: skip


def _method(split, examples: Examples) -> str:
    """Tells whether folds are "grouped" or "stratified"."""
    if split.method != "auto":
        return split.method
    return "grouped" if any(examples.groups) else "stratified"


def _same(images: np.ndarray, rows: np.ndarray, config, progress: Progress) -> np.ndarray:
    """The first of `rows` with the same picture, int64 [rows], where these stay together; else each is its own."""
    if not config.split.keep_duplicates_together:
        return np.arange(len(rows))
    pairs = duplicates.find(images, rows, most=duplicates.QUICK, turns=config.audit.turns).same.pairs
    if len(pairs):
        progress.message(f"  {counted(len(pairs), 'pair')} of the same picture {'is' if len(pairs) == 1 else 'are'} kept in one fold "
                         "(split.keep_duplicates_together)")  # fmt: skip
    return duplicates.sets(np.searchsorted(rows, pairs), len(rows))


def _divided(examples: Examples, classes: Sequence[str], split, repeat: int, same: np.ndarray) -> np.ndarray:
    """The fold of each example, int [n]."""
    seed, count = f"{split.seed}/fold {repeat}", split.folds
    grouped = _method(split, examples) == "grouped"
    distinct = len(set(examples.groups) if grouped else examples)
    if distinct < count and (not grouped or all(examples.groups)):
        unit, advice = ("group", "check --config.data.group") if grouped else ("image", "add images")
        raise DataError(
            f"{counted(distinct, unit)} cannot be kept apart in {count} folds; {_fewer(distinct, count, advice)}"
        )
    if grouped:
        folds = whole_groups(examples, [1 / count] * count, seed, same)
    else:
        order = order_of(seed, examples.ids)
        order = order[same[order] == order]  # copies go where the first of them goes
        order = order[np.argsort(examples.labels[order], kind="stable")]
        folds = np.zeros(len(examples), np.int64)
        folds[order] = np.arange(len(order)) % count
        folds = folds[same]
    present = np.zeros((count, len(classes)), bool)
    present[folds, examples.labels] = True
    if not present.all():
        fold, label = np.argwhere(~present)[0]
        own = np.flatnonzero(examples.labels == label)
        units = len(set(examples.groups.take(own))) if grouped else len(own)
        has = counted(units, "group" if grouped else "image")
        raise DataError(f"fold {fold} of {count} has no image of {classes[label]}, of which there {'is' if units == 1 else 'are'} {has}; "
                        f"{_fewer(units, count, 'add images, or leave the class out with --config.data.classes=A,B')}")  # fmt: skip
    return folds


def _fewer(units: int, count: int, advice: str) -> str:
    """A line on how many folds there can be, of so many groups or images of the rarest class; advice where that is too few for three."""
    if units < 3:
        return advice
    return (
        f"use --config.split.folds={units}, or fewer"
        if units < count
        else "use fewer --config.split.folds or another --config.split.seed"
    )


def _rows(folds: Folds) -> Iterator[tuple]:
    """The rows of `folds.csv`."""
    for repeat, parts in enumerate(folds.parts):
        for id, group, fold in zip(folds.ids, folds.groups, parts.tolist(), strict=True):
            yield id, group, repeat, fold
