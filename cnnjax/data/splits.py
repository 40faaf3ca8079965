"""Splits of examples for training, validation and test; frozen to `splits.csv`.

All orders come from SHA-256 of the seed and a name, so a split depends on nothing but seed, names and labels: not on
the file system, the machine, the number of processes or a library's version.
"""

import csv
import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax import runs
from cnnjax.data.columns import table
from cnnjax.data.dealing import order_of, whole_groups
from cnnjax.data.examples import Example
from cnnjax.data.split_files import assignment
from cnnjax.errors import DataError
from cnnjax.inside import sha256

NAMES = ("train", "val", "test")


def assign(examples: Sequence[Example], classes: Sequence[str], config, warn: Callable[[str], None] = lambda line: None,
           same: np.ndarray | None = None) -> list[str]:  # fmt: skip
    """The split of each example, by the `split` section of the config; "" of those that `split.file` leaves out.

    Args:
        examples: of a source.
        classes: names in label order.
        config: the `split` section.
        warn: hears what of `split.file` does not match.
        same: int64 [examples], the first example with the same picture, from `duplicates.sets`: they go to one split, where the method
            is stratified or grouped.

    Raises:
        DataError: a split without a single example of some class, or what a method or a file needs is missing.
    """
    if config.file:
        splits, lines = assignment(Path(config.file).expanduser(), examples)
        for line in lines:
            warn(line)
    else:
        splits = METHODS[config.method](examples, config, same)
    present = set(zip((example.label for example in examples), splits, strict=True))
    for split in NAMES:
        wanted = split == "train" or split in splits or (getattr(config, split) > 0 and not config.file)
        if missing := [name for label, name in enumerate(classes) if wanted and (label, split) not in present]:
            names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            advice = "add rows" if config.file else _advice(split, missing, classes, resolved(config.method, examples))
            how = f"split.file={config.file}" if config.file else f"split.method={config.method}"
            raise DataError(f"the {split} split has no image of {names} ({len(examples)} images, {how}); {advice}")
    if config.file and "val" not in splits:
        raise DataError(f"split.file={config.file} has no image in val, which chooses the best epoch; add some")
    return splits


def _advice(split: str, missing: Sequence[str], classes: Sequence[str], method: str) -> str:
    """A line on what to do about classes without images in a split."""
    left = [name for name in classes if name not in missing]
    if method == "official" and len(left) < 2:
        return "the set's own parts are used; add images there, or divide anew with --config.split.method=stratified"
    if method == "official" and 1 < len(left) <= 20:
        return f"leave them out with --config.data.classes={','.join(left)}, or divide anew with --config.split.method=stratified"
    return f"add images or enlarge --config.split.{split}"


def resolved(method: str, examples: Sequence[Example]) -> str:
    """Returns the method that "auto" stands for: the parts of the set itself, else whole groups, else by class."""
    if method != "auto":
        return method
    if len(examples) and all(example.split for example in examples):  # ends at the first where there are none
        return "official"
    groups = getattr(examples, "groups", None) or (example.group for example in examples)
    return "grouped" if any(groups) else "stratified"


def reason(config, examples: Sequence[Example], used: Sequence[str]) -> str:
    """Returns one line about how images were divided, and why so.

    Args:
        config: the `split` section.
        examples: that were divided.
        used: the splits that have images.
    """
    if config.file:
        return f"the images are divided by {config.file} (split.file)"
    method = resolved(config.method, examples)
    given = {example.split for example in examples} - {""}
    if method != "official":
        ignored = "; the set's own parts are not used, --config.split.method=official uses them" if given else ""
        how = {"stratified": "by class", "grouped": "by whole groups"}.get(method, method)
        why = " (split.method=auto)" if config.method == "auto" else ""
        return f"the images are divided {how}{why}{ignored}"
    cut = [name for name in NAMES[1:] if name not in given and name in used]
    more = (
        f"; {' and '.join(cut)}, which it does not bring, {'is' if len(cut) == 1 else 'are'} cut from train" if cut else ""
    )
    return f"the images are divided by the set's own parts, {', '.join(name for name in NAMES if name in given)}{more}"


def _labels(examples: Sequence[Example]) -> np.ndarray:
    """int32 [n]."""
    return np.fromiter((example.label for example in examples), np.int32, len(examples))


def _stratified(examples: Sequence[Example], config, same: np.ndarray | None = None) -> list[str]:
    ids = (example.id for example in examples)
    return _cut(ids, _labels(examples), config.seed, same, val=config.val, test=config.test)


def _cut(ids: Iterable[str], labels: np.ndarray, seed: int, same: np.ndarray | None, **fractions: float) -> list[str]:
    """Each class is divided on its own, by rounded fractions of `val` and `test`; a picture goes where the first of `same` goes."""
    splits = ["train"] * len(labels)
    same = np.arange(len(labels)) if same is None else same
    sizes = np.bincount(same, minlength=len(labels))
    order = order_of(seed, ids)
    order = order[sizes[order] > 0]
    ordered = labels[order]
    for label in np.unique(labels):
        own = order[ordered == label]
        seen = sizes[own].cumsum()
        val, test = (round(fractions[name] * sizes[own].sum()) for name in ("val", "test"))
        first, last = np.searchsorted(seen - sizes[own], (test, test + val))
        for i in own[:first]:
            splits[i] = "test"
        for i in own[first:last]:
            splits[i] = "val"
    return [splits[i] for i in same]


def _grouped(examples: Sequence[Example], config, same: np.ndarray | None = None) -> list[str]:
    """Whole groups, by the fractions of the splits that have one."""
    used = [name for name in NAMES if config[name] > 0]
    parts = whole_groups(examples, [config[name] for name in used], config.seed, same)
    return [used[part] for part in parts]


def _by_id(examples: Sequence[Example]) -> np.ndarray:
    """Rows sorted by id."""
    (ids,) = table(((example.id,) for example in examples), "string")
    return ids.order()


def _tutorial(examples: Sequence[Example], config, same=None) -> list[str]:
    """Keras' `ImageDataGenerator(validation_split)`: the first names of each class, sorted, are validation."""
    counts = Counter(example.label for example in examples)
    left = {label: int(config.val * count) for label, count in counts.items()}
    splits = ["train"] * len(examples)
    for i in _by_id(examples):
        label = examples[i].label
        if left[label]:
            splits[i], left[label] = "val", left[label] - 1
    return splits


def _tutorial_shuffled(examples: Sequence[Example], config, same=None) -> list[str]:
    """Keras' `image_dataset_from_directory(validation_split, seed)`: all names shuffled, the last are validation."""
    order = _by_id(examples)
    order = order[np.argsort(_labels(examples)[order], kind="stable")]
    np.random.RandomState(config.seed).shuffle(order)
    splits = ["train"] * len(examples)
    for i in order[len(order) - int(config.val * len(order)) :]:
        splits[i] = "val"
    return splits


@dataclasses.dataclass(frozen=True)
class _Shares:
    """Fractions as `_grouped` reads them of a `split` section."""

    train: float
    val: float
    test: float
    seed: int

    def __getitem__(self, name: str) -> float:
        return getattr(self, name)


def _official(examples: Sequence[Example], config, same: np.ndarray | None = None) -> list[str]:
    """Returns the split of the data set itself. A missing part is cut from train, in whole groups where all have one, else by class."""
    given = Counter(example.split for example in examples)
    if given[""] or not given["train"]:
        raise DataError("split.method=official needs a data set that brings its own train split, as folders train/, "
                        "val/, test/ do; use --config.split.method=stratified")  # fmt: skip
    splits = [sys.intern(example.split) for example in examples]  # one text, however many examples have it
    cut = {name: 0.0 if given[name] else config[name] for name in ("val", "test")}
    inside = np.flatnonzero([name == "train" for name in splits])
    own = [examples[i] for i in inside]
    if same is not None:
        _, first, which = np.unique(same[inside], return_index=True, return_inverse=True)
        same = first[which]
    if any(cut.values()) and all(example.group for example in own):
        parts = _grouped(own, _Shares(1 - cut["val"] - cut["test"], **cut, seed=config.seed), same)
    else:
        parts = _cut((example.id for example in own), _labels(own), config.seed, same, **cut)
    for i, part in zip(inside, parts, strict=True):
        splits[i] = part
    return splits


def _auto(examples: Sequence[Example], config, same: np.ndarray | None = None) -> list[str]:
    return METHODS[resolved("auto", examples)](examples, config, same)


METHODS = {"auto": _auto, "stratified": _stratified, "grouped": _grouped, "tutorial": _tutorial,
           "tutorial_shuffled": _tutorial_shuffled, "official": _official}  # fmt: skip


def shared_groups(groups: Sequence[str], splits: Sequence[str]) -> dict[str, set[str]]:
    """The groups that stand in more than one split, with those splits."""
    sides = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        if group:
            sides[group].add(split)
    return {group: names for group, names in sides.items() if len(names) > 1}


def write(path: Path, examples: Sequence[Example], splits: Sequence[str], classes: Sequence[str]) -> None:
    """Writes `id,label,group,split`, one row per example that is in a split, whole or not at all."""
    rows = ((e.id, classes[e.label], e.group, split) for e, split in zip(examples, splits, strict=True) if split)
    runs.write_rows(path, ("id", "label", "group", "split"), rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A frozen split as columns; iterated, it gives (id, label, group, split).

    Attributes:
        ids, labels, groups, splits: one text per image.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, str, str, str]]:
        return zip(self.ids, self.labels, self.groups, self.splits, strict=True)


NONE = Rows((), (), (), ())


def read(path: Path) -> Rows:
    """The rows of a frozen split. Raises DataError for a file that is not one."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a folder or a pipe; restore the file or use another --workdir")
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:  # spreadsheets add a byte order mark
            return Rows(*table(_checked(path, csv.reader(file)), "string", "string", "string", "string"))
    except csv.Error as error:  # a field without an end
        raise DataError(f"{path} is damaged ({error}); restore it or use another --workdir") from None


def _checked(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    if next(reader, None) != ["id", "label", "group", "split"]:
        raise DataError(f"{path} does not begin with id,label,group,split; restore it or use another --workdir")
    for row in filter(None, reader):
        if len(row) != 4 or row[3] not in NAMES:
            shown = " ".join(",".join(row).split())[:200]
            raise DataError(f"{path} has the row {shown}; the split must be one of {', '.join(NAMES)}")
        yield [runs.text_of_cell(text) for text in row]


def by_split(rows: np.ndarray, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Split name -> those of int64 `rows` that are in it."""
    return {name: rows[np.fromiter((split == name for split in splits), bool, len(rows))] for name in NAMES}


def digest(path: Path) -> str:
    """SHA-256 of a frozen split, stored with checkpoints."""
    return sha256(path)
