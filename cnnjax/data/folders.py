"""Labelled images in folders: the names of a listing become examples."""

import array
import dataclasses
import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from cnnjax.data import layout as layout_lib
from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.columns import PART, Column
from cnnjax.data.examples import Examples, Label, Source, digest, group_of
from cnnjax.data.layout import Layout
from cnnjax.data.listings import Files, Reference
from cnnjax.errors import DataError
from cnnjax.progress import counted


def labelled(config, place: str, files: Files) -> Source:
    """Finds the classes, parts and groups of listed files.

    Args:
        config: the `data` section.
        place: of the folder or archive, for messages.
        files: what it holds.

    Raises:
        DataError: fewer than two classes, or none of the names that `data.classes` asks for.
    """
    ours = np.fromiter((not is_system(name) for name in files.names), bool, len(files.names))
    pictures = ours & np.fromiter((not is_other(name) for name in files.names), bool, len(files.names))
    counts = Counter(name.rpartition("/")[0] for name in itertools.compress(files.names, pictures))
    layout = layout_lib.understand(counts, config.classes)
    bare = _bare(layout, files, ours & ~pictures)
    table = _table(place, itertools.compress(files.names, ours & ~pictures))
    classes = _classes(config, place, layout, bare, table)
    number_of = {name: i for i, name in enumerate(classes)}
    order = files.names.order()
    kept = array.array("I")  # numbers of files

    def examples() -> Iterator[tuple[str, int, str, str]]:
        """Id, label, group, split; of files with one name the last."""
        rows = ((number, files.names[number]) for number in order[pictures[order]])
        for (number, name), (_, after) in itertools.pairwise(itertools.chain(rows, [(0, "")])):
            if name != after and (folder := layout.places.get(name.rpartition("/")[0])):
                kept.append(number)
                group = group_of(config.group, name[folder.letters :])
                yield name[len(layout.above) :], number_of[folder.name], group, folder.split

    listed = Examples.of(examples())  # all names begin with the same folders: sorted by id as well
    numbers = np.asarray(kept)
    if not listed:
        raise DataError(f"{place} has no files in its class folders ({', '.join(classes)})")
    rejected = tuple(sorted((name, reason) for name, reason in files.rejected if not is_system(name) and not is_other(name)))
    facts = ((id, files.facts(place)) for id, place in zip(listed.ids, placed(numbers, files.places), strict=True))
    others = Counter(f".{name.lower().rpartition('.')[2]}" for name in itertools.compress(files.names, ours & ~pictures))
    warnings = (*files.warnings, *layout_lib.left_out_lines(layout, place), *_lines(bare, others), *table)
    return Source(
        classes,
        listed,
        digest(facts),
        references(files, layout.above, listed.ids, numbers),
        rejected,
        layout_lib.parts_line(layout),
        warnings,
        _sizes(files, numbers),
    )


def labelled_by_name(config, place: str, files: Files) -> Source:
    """Finds the class of each listed file by the regular expression `data.label`, or by `data.class_level`.

    The expression is searched in the names, or in the whole paths where no name has a match.

    Args:
        config: the `data` section.
        place: of the folder or archive, for messages.
        files: what it holds.

    Raises:
        DataError: fewer than two classes.
    """
    pictures = [(number, name) for number, name in enumerate(files.names) if not is_system(name) and not is_other(name)]
    level = config.class_level
    if level:
        found = {number: folders[level - 1] for number, name in pictures if len(folders := name.split("/")[:-1]) >= level}
    else:
        found = {number: label for number, name in pictures if (label := group_of(config.label, name.rpartition("/")[2]))}
        found = found or {number: label for number, name in pictures if (label := group_of(config.label, name))}
    chosen = f"data.class_level={level}" if level else f"data.label={config.label}"
    without = [name for number, name in pictures if number not in found]
    classes = tuple(config.classes) or tuple(sorted({*found.values()}))
    if len(classes) < 2 or not found:
        such = f"; {without[0]!r} has no match" if without else ""
        raise DataError(f"{chosen}: it finds {'one class only' if classes else 'no class'} in the names of {place}{such}; a "
                        "classifier needs two or more")  # fmt: skip
    above = lambda number: "/".join(files.names[number].split("/")[: max(level - 1, 0)])  # noqa: E731
    labels = {number: Label(label, "" if config.group else above(number), _split_in(files.names[number]))
              for number, label in found.items()}  # fmt: skip
    left = (
        [f"{counted(len(without), 'file')} left out, such as {without[0]}, for which {chosen} finds no class"]
        if without
        else []
    )
    source = source_of(config, files, classes, labels)
    return dataclasses.replace(source, rejected=tuple(sorted(files.rejected)), warnings=(*files.warnings, *left))


def _split_in(name: str) -> str:
    """The split that one of the folders of a path names; "" for none, or several."""
    splits = {part[0] for folder in name.split("/")[:-1] if (part := layout_lib.part_of(folder))}
    return splits.pop() if len(splits) == 1 else ""


def source_of(config, files: Files, classes: tuple[str, ...], labels: Mapping[int, Label]) -> Source:
    """Returns the source of listed files with labels; files with other classes than `classes` are left out.

    Args:
        config: the `data` section.
        files: that were listed.
        classes: in label order.
        labels: number of a file -> its label.
    """
    number_of = {name: i for i, name in enumerate(classes)}
    kept = array.array("I")

    def examples() -> Iterator[tuple[str, int, str, str]]:
        for number in map(int, files.names.order()):
            label = labels.get(number)
            if label and label.name in number_of:
                kept.append(number)
                name = files.names[number]
                group = label.group or group_of(config.group, name.rpartition("/")[2]) or group_of(config.group, name)
                yield name, number_of[label.name], group, label.split

    listed = Examples.of(examples())
    numbers = np.asarray(kept)
    facts = ((e.id, e.label, files.facts(place)) for e, place in zip(listed, placed(numbers, files.places), strict=True))
    return Source(classes, listed, digest(facts), references(files, "", listed.ids, numbers), sizes=_sizes(files, numbers))


def _sizes(files: Files, numbers: np.ndarray) -> Callable[[np.ndarray], Sequence[int]] | None:
    """Returns what tells the bytes of examples, by the number of each one's file; None where the listing is without."""
    return (lambda rows: files.places[0].take(numbers[rows])) if files.sized else None


def _bare(layout: Layout, files: Files, others: np.ndarray) -> list[str]:
    """Folders that stand where classes stand and have no picture, sorted."""
    holding = {name.rpartition("/")[0] for name in itertools.compress(files.names, others)}
    found = set()
    for folder in (*files.folders, *holding):
        for root in layout.roots:
            if folder.startswith(root) and not is_system(folder) and (name := folder[len(root) :].partition("/")[0]):
                found.add((root, name))
    whole = {
        (root, place.name) for folder, place in layout.places.items() for root in layout.roots if folder.startswith(root)
    }
    tops = {f"{layout.above}{name}/" for name in (*layout.parts, *layout.left_out, *layout.copies)}
    return sorted(f"{root}{name}"[len(layout.above) :] for root, name in found - whole if f"{root}{name}/" not in tops)


def _lines(bare: Sequence[str], others: Counter) -> Iterator[str]:
    if bare:
        yield f"no pictures in {', '.join(f'{name}/' for name in bare)}, which {'is' if len(bare) == 1 else 'are'} left out"
    if others:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:5])
        what = "is not a picture" if others.total() == 1 else "are not pictures"
        yield f"{counted(others.total(), 'file')} {what}, by name, and left out ({kinds}{', ...' if len(others) > 5 else ''})"


def _table(place: str, others: Iterable[str]) -> list[str]:
    """A line about the uppermost table in a folder, which may hold the labels; [] without one."""
    found = min(
        (name for name in others if name.lower().endswith((".csv", ".tsv", ".parquet"))),
        key=lambda n: (n.count("/"), n),
        default="",
    )
    usable = found and os.path.isdir(place)
    return [f"{found} may be a table of labels; --config.data.path={os.path.join(place, found)} uses it"] if usable else []


def _classes(config, place: str, layout: Layout, bare: Sequence[str], table: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes in label order: those of `data.classes`, or the folders found."""
    found, hint = layout.classes, "".join(f"; {line}" for line in table)
    classes = tuple(config.classes) or found
    missing = [name for name in classes if name not in found]
    if missing:
        raise DataError(f"{place} has no folder for {', '.join(missing)}; it has {', '.join(found) or 'no folders'}; "
                        "set --config.data.classes")  # fmt: skip
    if not config.classes and layout_lib.are_parts(found):
        raise DataError(f"{place} has the folders {', '.join(found)}, which name parts of a set, and no class folders in them; put "
                        f"the images of each class in a folder, or take these as classes with --config.data.classes={','.join(found)}{hint}")  # fmt: skip
    if len(classes) < 2:
        what = f"files in one class folder only ({classes[0]})" if classes else "no files in class folders"
        without = f", and no pictures in {', '.join(f'{name}/' for name in bare)}" if bare else ""
        raise DataError(f"{place} has {what}{without}; a classifier needs two or more folders with images, one per class, "
                        f"or --config.data.label=REGEX that finds the class in a file's name, or a table as --config.data.path{hint}")  # fmt: skip
    return classes


def placed(numbers: np.ndarray, places: list[Column]) -> Iterator[tuple]:
    """Yields the place of each numbered file."""
    for at in range(0, len(numbers), PART):
        yield from zip(*(column.take(numbers[at : at + PART]) for column in places), strict=True)


def references(files: Files, above: str, ids: Column, numbers: np.ndarray) -> Callable[[], Iterator[tuple[int, Reference]]]:
    """Returns what yields the reference of each example once, with its number.

    Args:
        files: that were listed.
        above: the folder that is not part of an id.
        ids: of the examples.
        numbers: of their files, int [examples].
    """
    if files.stream is None:
        return functools.partial(_by_place, files, above, ids, numbers)
    position = np.full(len(files.names), -1, np.int32)
    position[numbers] = np.arange(len(numbers), dtype=np.int32)
    return functools.partial(_streamed, files.stream, position)


def _by_place(files: Files, above: str, ids: Column, numbers: np.ndarray) -> Iterator[tuple[int, Reference]]:
    for i, (id, place) in enumerate(zip(ids, placed(numbers, files.places), strict=True)):
        yield i, files.reference(above + id, place)


def _streamed(stream: Callable, position: np.ndarray) -> Iterator[tuple[int, Reference]]:
    return ((int(position[number]), reference) for number, reference in stream() if position[number] >= 0)
