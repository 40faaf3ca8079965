"""Reads a tree of folders: which of them are classes, which are parts such as train/ and test/, and what is neither."""

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cnnjax.progress import counted

# Words that name a part of a data set.
WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
         "test": "test", "testing": "test"}  # fmt: skip
THINGS = ("set", "data", "images", "imgs", "img", "folder", "split")  # may follow such a word, as in trainset or test_images
# Words of folders beside parts whose images have no label.
UNLABELLED = {"pred", "prediction", "predict", "unlabeled", "unlabelled", "unknown", "sample", "samples", "submission"}

Path = tuple[str, ...]  # names of folders, from the root of the set


class Place(NamedTuple):
    """The meaning of a folder.

    Attributes:
        name: of its class.
        letters: of the path up to its class folder, "/" included; what follows is searched for a group.
        split: train, val or test where a folder says so, else "".
    """

    name: str
    letters: int
    split: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """The meaning of all folders of a set.

    Attributes:
        above: the folders that all images share, "cell_images/"; not part of an id.
        classes: the class folders found, sorted, those that were not chosen too.
        roots: the folders whose folders are classes, "" or with "/" at the end.
        places: folder -> `Place`, of folders with labelled files.
        parts: folder of a part -> train, val or test; {} where the set brings none.
        left_out: folder -> files in it and below that have no label; "" for those beside the folders.
        copies: class folders that hold a copy of the set, left out too.
        repeated: folders that stand in most class folders, which may be the classes themselves.
    """

    above: str
    classes: tuple[str, ...]
    roots: tuple[str, ...]
    places: dict[str, Place]
    parts: dict[str, str]
    left_out: dict[str, int]
    copies: tuple[str, ...]
    repeated: tuple[str, ...] = ()


def part_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Returns the split that a folder's name says, and its other words; None for another name.

    "Training", "seg_train", "test-set", "val2017" and "trainImages" are names of parts.
    """
    splits, rest = [], []
    for word in _words(name):
        stem = next((word.removesuffix(thing) for thing in THINGS if word.removesuffix(thing) in WORDS), word)
        if stem in WORDS:
            splits.append(WORDS[stem])
        elif word not in THINGS:
            rest.append(word)
    return (splits[0], tuple(rest)) if len(splits) == 1 else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]


class _Tree:
    """Folders by their names."""

    def __init__(self, folders: Mapping[str, int]):
        self.files: dict[Path, int] = {}
        self.below: dict[Path, set[str]] = defaultdict(set)
        for folder, count in folders.items():
            path = tuple(folder.split("/")) if folder else ()
            self.files[path] = count
            for i in range(len(path)):
                self.below[path[:i]].add(path[i])

    def children(self, path: Path) -> list[str]:
        return sorted(self.below.get(path, ()))

    def descended(self, path: Path) -> Path:
        """The folder below which there are several, or the last that has folders with folders."""
        while len(names := self.children(path)) == 1 and self.below.get((*path, names[0])):
            path = (*path, names[0])
        return path


def understand(folders: Mapping[str, int], chosen: Sequence[str] = ()) -> Layout:
    """Finds classes and parts.

    Args:
        folders: folder below the root, with "/" -> files directly in it; "" for the root itself.
        chosen: class folders that the user has named; no other folder is a class.
    """
    tree = _Tree(folders)
    root = tree.descended(())
    parts = _parts(tree, root, chosen)
    roots = dict(_class_roots(tree, root, parts))
    places: dict[str, Place] = {}
    classes: set[str] = set()
    copies: set[Path] = set()
    inside = {} if parts else _parts_inside(tree, root, chosen)
    for path, split in roots.items():
        names = tree.children(path)
        doubles = {name for name in names if name not in chosen and _is_copy(tree, path, name, names)}
        copies |= {(*path, name) for name in doubles}
        for name in names:
            if name not in doubles:
                classes.add(name)
            if name in doubles or (chosen and name not in chosen):
                continue
            letters = sum(len(part) + 1 for part in (*path, name))
            for folder in _folders(tree, (*path, name)):
                own = inside.get(folder[len(path) + 1], "") if inside and len(folder) > len(path) + 1 else split
                places["/".join(folder)] = Place(name, letters, own)
    named = {top: split for top, (split, _) in parts.items()} or inside
    left_out = _left_out(tree, root, places, copies, chosen if not parts else ())
    above = tuple("".join(f"{part}/" for part in path) for path in roots)
    often = sorted({name for path in roots for name in _repeated(tree, path, tree.children(path))}) if not inside else []
    doubled = tuple(sorted("/".join(path[len(root) :]) for path in copies))
    return Layout(
        "".join(f"{part}/" for part in root), tuple(sorted(classes)), above, places, named, left_out, doubled, tuple(often)
    )


def _parts(tree: _Tree, root: Path, chosen: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The folders at the root that are parts with class folders in them: name -> its split and other words."""
    tops = tree.children(root)
    unlabelled = {name for name in tops if not part_of(name) and set(_words(name)) & UNLABELLED}
    labelled = [name for name in tops if tree.children((*root, name)) and name not in unlabelled]
    found = {name: part for name in labelled if (part := part_of(name))}
    splits, rests = [split for split, _ in found.values()], {rest for _, rest in found.values()}
    if not labelled or len(found) < len(labelled) or len(set(splits)) < len(splits) or len(rests) > 1:
        return {} if set(tops) & set(chosen) else _parts_among(tree, root, found)
    strange = [name for name in tops if not part_of(name) and name not in unlabelled]
    if set(tops) & set(chosen) or (len(found) == 1 and strange):  # one class may be called train
        return {}
    return found


def _parts_among(
    tree: _Tree, root: Path, found: Mapping[str, tuple[str, tuple[str, ...]]]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The folders that share classes with train, of those that may be parts beside others such as extra/ and train_augmented/."""
    plainest: dict[str, str] = {}
    for name in sorted(found, key=lambda name: (len(found[name][1]), name)):
        plainest.setdefault(found[name][0], name)
    if "train" not in plainest:
        return {}
    inside = {split: set(tree.children(tree.descended((*root, name)))) for split, name in plainest.items()}
    same = [split for split in plainest if len(inside[split] & inside["train"]) > 1]
    return {plainest[split]: found[plainest[split]] for split in same} if len(same) > 1 else {}


def _repeated(tree: _Tree, root: Path, names: Sequence[str]) -> list[str]:
    """Names of folders that stand in most of the class folders, as where patients stand above classes; [] where there are none."""
    inside = [tree.children((*root, name)) for name in names if not tree.files.get((*root, name))]
    counts = Counter(itertools.chain.from_iterable(inside))
    common = sorted(name for name, count in counts.items() if 2 * count > len(names))
    return common if len(inside) == len(names) > len(counts) > 1 and len(common) == len(counts) else []


def _class_roots(tree: _Tree, root: Path, parts: Mapping[str, tuple[str, tuple[str, ...]]]) -> Iterable[tuple[Path, str]]:
    """The folders whose folders are classes, each with its split: of each part the one that agrees best with train."""
    if not parts:
        return [(root, "")]
    order = sorted(parts, key=lambda name: parts[name][0] != "train")
    first = tree.descended((*root, order[0]))
    known = set(tree.children(first))
    roots = [(first, parts[order[0]][0])]
    for name in order[1:]:
        paths = [(*root, name)]
        while len(names := tree.children(paths[-1])) == 1 and tree.below.get((*paths[-1], names[0])):
            paths.append((*paths[-1], names[0]))
        roots.append((max(paths, key=lambda path: len(known.intersection(tree.children(path)))), parts[name][0]))
    return roots


def _parts_inside(tree: _Tree, root: Path, chosen: Sequence[str]) -> dict[str, str]:
    """The folders of parts within each class folder, cat/train/ and dog/train/: name -> split. {} where there are none."""
    tops = [name for name in tree.children(root) if not chosen or name in chosen]
    names = {name for top in tops for name in tree.children((*root, top))}
    found = {name: part[0] for name in names if (part := part_of(name))}
    direct = any(tree.files.get((*root, top)) for top in tops)
    return {} if direct or len(found) < len(names) or len(set(found.values())) < max(2, len(found)) else found


def _is_copy(tree: _Tree, path: Path, name: str, beside: Sequence[str]) -> bool:
    """Returns whether a class folder only holds folders that are named like the classes beside it."""
    inside = tree.children((*path, name))
    return len(inside) > 1 and not tree.files.get((*path, name)) and set(inside) <= set(beside) and len(beside) > 2


def _folders(tree: _Tree, path: Path) -> list[Path]:
    """The folder and all below it, as far as they have files."""
    found, left = [], [path]
    while left:
        path = left.pop()
        if tree.files.get(path):
            found.append(path)
        left += [(*path, name) for name in tree.children(path)]
    return found


def _left_out(tree: _Tree, root: Path, places: Mapping[str, Place], copies: Iterable[Path], chosen: Sequence[str]
              ) -> dict[str, int]:  # fmt: skip
    """Counts files without a label by the folder at the root of the set; those of copies and of classes not chosen do not count."""
    found: dict[str, int] = defaultdict(int)
    for path, count in tree.files.items():
        folder = "/".join(path)
        if (
            folder in places
            or not count
            or any(path[: len(copy)] == copy for copy in copies)
            or (chosen and len(path) > len(root) and path[len(root)] not in chosen)
        ):
            continue
        found["/".join(path[len(root) : len(root) + 1])] += count
    return dict(sorted(found.items()))


def are_parts(names: Sequence[str]) -> bool:
    """Returns whether two or more names of folders are those of parts, and of different ones."""
    found = [part_of(name) for name in names]
    return (
        len(found) > 1
        and all(found)
        and len({split for split, _ in found}) == len(found)
        and len({rest for _, rest in found}) == 1
    )


def parts_line(layout: Layout) -> tuple[str, ...]:
    """Says which folders are parts, in one line; nothing where there are none."""
    names = ", ".join(f"{folder}/ for {split}" for folder, split in sorted(layout.parts.items(), key=_in_order))
    return (f"the set brings its own parts: {names}",) if names else ()


def left_out_lines(layout: Layout, place: str) -> list[str]:
    """Says what was left out, and what to type; [] of a set of plain class folders.

    Args:
        layout: of the set.
        place: its path, for commands.
    """
    said = []
    for folder in layout.copies:
        said.append(f"{folder}/ only holds folders that are named like the classes beside it, and is left out as a copy of the set; "
                    f"--config.data.classes={','.join((*layout.classes, folder))} takes it as a class")  # fmt: skip
    if layout.repeated:
        names = ", ".join(layout.repeated[:5])
        said.append(f"folders {names} stand in most class folders; if they are the classes, type "
                    f"--config.data.label='{'|'.join(map(re.escape, layout.repeated))}' --config.data.group='^[^/]+'")  # fmt: skip
    for folder, count in layout.left_out.items():
        if folder:
            how = f"; predict them with --mode=predict --input={place}/{layout.above}{folder}" if part_of(folder) else ""
            where = "no class folder" + (" of a part" if layout.parts and not part_of(folder) else "")
            said.append(
                f"{counted(count, 'file')} in {folder}/ {'is' if count == 1 else 'are'} in {where} and left out{how}"
            )
        else:
            said.append(f"{counted(count, 'file')} beside the folders left out")
    return said


def _in_order(part: tuple[str, str]) -> int:
    return ("train", "val", "test").index(part[1])
