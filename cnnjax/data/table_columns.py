"""Meaning of the columns of a table: which is the file, which the label, the group and the split."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from cnnjax.data.examples import Label
from cnnjax.data.layout import WORDS, part_of
from cnnjax.data.table_files import Table
from cnnjax.errors import DataError
from cnnjax.progress import counted

# Usual names of columns, in small letters and without signs, the most telling first.
USUAL = {
    "file": ("file", "filename", "filepath", "path", "imagepath", "imagefile", "imagename", "image", "img", "imageid", "imgid", "imageindex", "filepaths", "filenames", "picture",
             "photo", "id", "name"),
    "label": ("label", "labels", "class", "classname", "category", "target", "diagnosis", "dx", "species", "breed", "finding", "findings",
              "findinglabel", "findinglabels", "condition", "disease", "pathology", "grade", "severity", "type", "tag", "annotation",
              "groundtruth", "y"),
    "group": ("group", "patient", "patientid", "subject", "subjectid", "case", "caseid", "person", "animal", "slide", "site"),
    "split": ("split", "set", "subset", "part", "partition", "fold", "dataset"),
}  # fmt: skip
MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
SHOWN = 10  # classes that a line names


@dataclasses.dataclass(frozen=True)
class Meaning:
    """Meaning of columns.

    Attributes:
        kinds: file, label, group or split -> name of the column.
        marks: columns of which each is a class; the one with a 1 is the label.
        flags: column of 0 and 1 -> the part of its rows with a 1.
        rest: the part of rows without a 1 in any of `flags`.
        cells: whether the column of files holds the pictures themselves.
    """

    kinds: dict[str, str]
    marks: tuple[str, ...] = ()
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    rest: str = ""
    cells: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that say the class."""
        return self.marks or (self.kinds["label"],)

    @property
    def needed(self) -> set[str]:
        """All columns that are read."""
        return {*self.kinds.values(), *self.marks, *self.flags}

    def note(self, table: Table) -> str:
        """One line about what was understood."""
        if table.headless:
            first, *others = self.kinds.items()
            used = ", ".join(
                [f"column {first[1]} is the {first[0]}", *(f"column {name} the {kind}" for kind, name in others)]
            )
            return f"{table.path.name} has no header: {used}"
        used = [f"{name!r} {'holds the images' if self.cells and kind == 'file' else f'is the {kind}'}"
                for kind, name in self.kinds.items()]  # fmt: skip
        if self.marks:
            used.insert(1, f"the label is the column with a 1: {_listed(self.marks)}")
        if self.flags:
            when = ", ".join(f"{part} where {name!r} is 1" for name, part in self.flags.items())
            used.append(f"the split is {when}, else {self.rest or 'none'}")
        return f"columns of {table.path.name}: {', '.join(used)}"

    def reader(self, table: Table) -> Callable[[Sequence[str]], tuple[str, Label]]:
        """Returns a function from a row to its file, "" for one in a cell, and its label, named "" where it has none."""
        file, label, group, split = (
            table.names.index(self.kinds[kind]) if self.kinds.get(kind) in table.names else -1 for kind in USUAL
        )
        marks = [(name, table.names.index(name)) for name in self.marks]
        flags = [(part, table.names.index(name)) for name, part in self.flags.items()]

        def read(row: Sequence[str]) -> tuple[str, Label]:
            name = row[label].strip() if label >= 0 else next((name for name, place in marks if _mark(row[place])), "")
            if split >= 0:
                part = (part_of(row[split].strip()) or ("",))[0]
            else:
                part = next((part for part, place in flags if _mark(row[place])), self.rest)
            return (
                "" if file < 0 else row[file].strip(),
                Label("" if name.lower() == "nan" else name, "" if group < 0 else row[group].strip(), part or table.split),
            )

        return read


def understand(config, table: Table) -> tuple[Meaning, list[str]]:
    """Finds the meaning of the columns of a table, and lines about those that look like a split and are none.

    Args:
        config: the `data` section; its `columns` names some.
        table: of which `behead` has seen the first line.

    Raises:
        DataError: a column that is named and not there, one that is needed and not found, or rows with several classes.
    """
    chosen = _chosen(config, table)
    if "file" not in chosen and (cells := cell_column(table)):
        chosen["file"] = cells
    plain = {plain_name(name): name for name in reversed(table.names)}
    for kind in ("file", "label", "group"):
        name = next((plain[name] for name in USUAL[kind] if name in plain), "")
        if kind not in chosen and name and name not in chosen.values():
            chosen[kind] = name
    columns = len(table.names) + (chosen.get("file") in table.cells)
    splits = [plain[name] for name in USUAL["split"] if name in plain and plain[name] not in chosen.values()]
    if columns == 2 and "split" not in chosen and "group" not in chosen and not splits:  # id,breed and the like
        chosen.setdefault("file", table.file or table.names[0])
        chosen.setdefault("label", next(name for name in table.names if name != chosen["file"]))
    if table.headless:
        _by_position(chosen, table)
    values = _values(table, [name for name in table.names if name not in chosen.values() or name == chosen.get("split")])
    marks = (
        ()
        if "label" in chosen or table.headless
        else _classes(table, [name for name, seen in values.items() if name not in splits and False in seen])
    )
    if lost := [kind for kind in ("file", "label") if kind not in chosen and not (kind == "label" and marks)]:
        raise DataError(_lost(table, lost))
    split, flags, said = _split(chosen, splits, table, {name: seen for name, seen in values.items() if name not in marks})
    kinds = {kind: chosen[kind] for kind in ("file", "label", "group") if kind in chosen}
    kinds |= {"split": split} if split else {}
    return Meaning(kinds, marks, flags, _rest(flags), chosen["file"] in table.cells), said


def plain_name(name: str) -> str:
    """Returns the name of a column in small letters, without signs and numbers, as `USUAL` has it."""
    return re.sub(r"[^a-z]", "", name.lower())


def _mark(text: str) -> bool | None:
    """The meaning of 0, 1, true or false; None for another text."""
    found = MARKS.get(text)
    return MARKS.get(text.strip().lower()) if found is None else found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _chosen(config, table: Table) -> dict[str, str]:
    """Kind of column -> its name, as `data.columns` says it."""
    chosen, known = dict(entry.partition("=")[::2] for entry in config.columns), [*table.names, *table.cells]
    unknown = [f"{kind}={name}" for kind, name in chosen.items() if kind not in USUAL or name not in known]
    if not unknown:
        return chosen
    near = {**{_folded(name): name for name in known}, **{_folded(kind): kind for kind in USUAL}}
    right = []
    for kind, name in chosen.items():
        kinds = difflib.get_close_matches(_folded(kind), [*USUAL], 1)
        names = difflib.get_close_matches(_folded(name), [_folded(name) for name in known], 1)
        right += [f"{kinds[0]}={near[names[0]]}"] if kinds and names else []
    if len(right) == len(chosen):
        raise DataError(f"data.columns={','.join(unknown)}: {table.path.name} has no such column; the nearest is "
                        f"--config.data.columns={','.join(right)}")  # fmt: skip
    of = (
        f"of the positions 1 to {len(known)}, for {table.path.name} has no header"
        if table.headless
        else f"of the columns {', '.join(known)}"
    )
    raise DataError(f"data.columns={','.join(unknown)}: write KIND=NAME, of {', '.join(USUAL)} and {of}")


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def cell_column(table: Table) -> str:
    """Returns the column of pictures; "" where there is none, or several without a usual name."""
    usual = {plain_name(name): name for name in reversed(table.cells)}
    only = table.cells[0] if len(table.cells) == 1 else ""
    return next((usual[name] for name in USUAL["file"] if name in usual), only)


def _by_position(chosen: dict[str, str], table: Table) -> None:
    """Adds to the columns that were chosen those of a table without names, as far as their values tell them."""
    if "file" not in chosen:
        chosen["file"] = table.file
    left = [name for name in table.names if name not in chosen.values()]
    if "split" not in chosen and len(table.names) > 2:
        part = next((name for name in left if all(map(part_of, _distinct(table, name)))), "")
        chosen |= {"split": part} if part else {}
        left = [name for name in left if name != part]
    if "label" not in chosen and len(left) == 1:
        chosen["label"] = left[0]


def _distinct(table: Table, name: str) -> list[str]:
    """The different values of a column, sorted."""
    place = table.names.index(name)
    return sorted({row[place].strip() for row in table.rows if len(row) > place})


def _lost(table: Table, lost: Sequence[str]) -> str:
    ways = ",".join(f"{kind}={'N' if table.headless else 'NAME'}" for kind in lost)
    if table.headless:
        return (f"{table.path} has no header and {len(table.names)} columns, first {', '.join(table.rows[0])}; name that of the "
                f"{' and of the '.join(lost)} by its position with --config.data.columns={ways}")  # fmt: skip
    kinds, names = " or the ".join(lost), ", ".join([*table.names, *table.cells])
    return f"{table.path} has the columns {names}, and none is known to be the {kinds}; name it with --config.data.columns={ways}"


def _values(table: Table, names: Iterable[str]) -> dict[str, set[bool]]:
    """Columns that only hold 0, 1, true and false -> those that they hold."""
    found = {name: (table.names.index(name), set()) for name in names}
    for row in table.rows:
        for name, (place, seen) in list(found.items()):
            mark = _mark(row[place]) if len(row) > place else False
            if mark is None:
                del found[name]
            seen.add(mark)
        if not found:
            break
    return {name: seen for name, (_, seen) in found.items()}


def _classes(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of 0 and 1 that are classes: each row has one 1. () where there are no two such columns.

    Raises:
        DataError: a row with several.
    """
    sure = [
        name for name in names if not _flag(name) or plain_name(name) in WORDS
    ]  # is_train is never a class, train may be one
    without = [name for name in sure if not _flag(name)]
    if len(without) < 2 and (len(sure) < 2 or not without):
        return ()
    if len(sure) > len(without) and _counts(table, sure)[1] == len(table.rows):
        return tuple(sure)
    if len(without) < 2:
        return ()
    check_marks(table, without)
    return tuple(without)


def _counts(table: Table, names: Sequence[str]) -> tuple[int, int, int]:
    """The numbers of rows with no 1 in the columns, with one, and with several."""
    places, counts = [table.names.index(name) for name in names], [0, 0, 0]
    for row in table.rows:
        counts[min(sum(len(row) > place and bool(_mark(row[place])) for place in places), 2)] += 1
    return tuple(counts)


def check_marks(table: Table, names: Sequence[str]) -> None:
    """Raises DataError where a row of a table has several classes."""
    none, one, several = _counts(table, names)
    if several:
        raise DataError(f"{table.path} has a 1 in several of the columns {_listed(names)} in {several:,} of {counted(none + one + several, 'row')}; "
                        "an image has one class here: leave out those rows, or name one column as the label with "
                        f"--config.data.columns=label={names[0]}")  # fmt: skip


def _flag(name: str) -> str:
    """The part that a column such as is_train or "test" marks; "" for none."""
    return WORDS.get(re.sub("^(is|in)", "", plain_name(name)), "")


def _rest(flags: Mapping[str, str]) -> str:
    """The part of rows that no flag marks: train where nothing marks it, else the last part that is not marked."""
    left = [part for part in ("train", "test", "val") if part not in flags.values()] if flags else []
    return left[0] if left else ""


def _split(chosen: Mapping[str, str], usual: Sequence[str], table: Table, values: Mapping[str, set[bool]]
           ) -> tuple[str, dict[str, str], list[str]]:  # fmt: skip
    """The column of splits, columns that mark a part, and a line about one whose values name no parts.

    Raises:
        DataError: the user has named that column.
    """
    said = []
    for name in [chosen["split"]] if "split" in chosen else usual:
        found = _distinct(table, name)
        if all(map(part_of, found)):
            return name, {}, []
        if "split" in chosen and _flag(name) and name in values:
            return "", {name: _flag(name)}, []
        shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
        line = f"{name!r} of {table.path.name} has the values {shown}, and only train, val and test name parts"
        if "split" in chosen:
            raise DataError(f"{line}; rename them, or leave split= out of --config.data.columns")
        said.append(f"{line}: it is not used")
    flags = {name: _flag(name) for name in values if _flag(name)}
    if same := [name for name in flags if len(values[name]) < 2]:  # a part with all the rows divides nothing
        said.append(
            f"{_listed([repr(name) for name in same])} of {table.path.name} has one value only: it is not used as a split"
        )
    flags = {name: part for name, part in flags.items() if name not in same}
    if flags and (several := _counts(table, [*flags])[2]):
        raise DataError(f"{table.path} has a 1 in several of the columns {', '.join(flags)} in {counted(several, 'row')}; an image is in one "
                        "part: fix them, or name a column with --config.data.columns=split=NAME")  # fmt: skip
    return "", flags, said
