"""Labels in a table: a file of rows that name images, their classes and, where there are such columns, groups and splits."""

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnnjax.data import folders
from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.examples import Label, Source
from cnnjax.data.layout import part_of
from cnnjax.data.listings import Files, list_files
from cnnjax.data.table_columns import USUAL, Meaning, cell_column, check_marks, plain_name, understand
from cnnjax.data.table_files import SUFFIXES, Table, behead, cell_files, read_table
from cnnjax.data.table_finder import Finder
from cnnjax.errors import DataError
from cnnjax.progress import counted

SHARD = re.compile(r"-\d+-of-\d+$")  # ends the names of the files of one table
PARTS = ("train", "val", "test")


def is_table(path: str) -> bool:
    """Returns whether a path names a table, by its ending."""
    return path.lower().endswith(SUFFIXES)


def labelled(config, path: Path) -> Source:
    """Returns the images that a table names, or those in its cells.

    Args:
        config: the `data` section; its `root` holds the files, else the folder of the table, and `columns` names columns.
        path: of the table.

    Raises:
        DataError: a table that cannot be read, columns that are not found, an image with two classes, fewer than two classes, or no file
            that is there.
    """
    table = read_table(path)
    root = Path(config.root).expanduser() if config.root else path.parent
    finder = None
    if not table.cells or _files_of(config, table):
        if not root.exists():
            raise DataError(
                f"no such folder or archive: {root}; name the one that holds the images with --config.data.root=DIR"
            )
        finder = Finder(list_files(root, config.names, partial=config.partial), path)
        if table.cells and cell_column(table) and not _named_there(config, table, finder):
            finder = None
        else:
            table.cells = ()
            behead(table, _known(config), finder.has)
    meaning, ignored = understand(config, table)
    tables, notes, beside = _parts(config, table, meaning, finder)
    files = finder.files if finder else cell_files(tables, meaning.kinds["file"])
    found, missing, counts = _match(tables, meaning, finder)
    padded = finder.without_zeros(found, missing) if finder else []
    if not found and not missing:
        raise DataError(f"{path} has no row with a file and a label; a table of labels has a row for each image")
    if not found:
        raise DataError(f"of {counted(len(missing), 'file')} that {path} names, such as {next(iter(missing))!r}, none is in {root}; name the "
                        "folder or archive that holds them with --config.data.root=DIR")  # fmt: skip
    empty, twice = counts
    what = "a label" if meaning.cells else "a file or a label"
    said = [
        *itertools.chain.from_iterable(table.said for table in tables),
        *ignored,
        *beside,
        *([f"{counted(empty, 'row')} of {_names(tables)} without {what} left out"] if empty else []),
        *(
            [
                f"{counted(twice, 'row')} of {_names(tables)} with another part than a row above of the same image; that counts"
            ]
            if twice
            else []
        ),
    ]
    rejected = dict(files.rejected)
    absent = [(file, rejected.get(file, f"named in {path.name}, but not there")) for file in missing]
    source = _source(config, files, found, meaning, tables)
    return dataclasses.replace(source, rejected=tuple(absent), warnings=(*said, *source.warnings),
                               notes=(meaning.note(table), *notes, *padded))  # fmt: skip


def _files_of(config, table: Table) -> list[str]:
    """Columns of a table that may name files: those that the user names, else those with usual names; [] where cells are named."""
    named = [name for kind, _, name in (entry.partition("=") for entry in config.columns) if kind == "file"]
    if named:
        return [name for name in named if name in table.names]
    return [name for name in table.names if plain_name(name) in USUAL["file"]]


def _named_there(config, table: Table, finder: Finder) -> bool:
    """Returns whether a table that also has cells of pictures names files: the user says so, or the first row names one that is there."""
    if any(entry.startswith("file=") for entry in config.columns):
        return True
    return any(finder.has(table.rows[0][table.names.index(name)]) for name in _files_of(config, table) if table.rows)


def _known(config) -> set[str]:
    """Texts, in small letters, that tell that a line with them is a header."""
    signed = {name for kind in ("file", "label") for name in USUAL[kind] if name != "y"}
    return signed | {entry.partition("=")[2].lower() for entry in config.columns if not entry.partition("=")[2].isdecimal()}


def _names(tables: Sequence[Table]) -> str:
    more = f" and {len(tables) - 1} more" if len(tables) > 1 else ""
    return tables[0].path.name + more


def _source(config, files: Files, found: dict[int, Label], meaning: Meaning, tables: Sequence[Table]) -> Source:
    path = tables[0].path
    classes = tuple(config.classes) or _sorted({row.name for row in found.values()})
    if absent := sorted({*classes} - {row.name for row in found.values()}):
        raise DataError(f"{path} has no image of {', '.join(absent)}; set --config.data.classes")
    if len(classes) < 2:
        raise DataError(f"{path} has one class only ({', '.join(classes)}) in {', '.join(map(repr, meaning.labels))}; a classifier needs two "
                        "or more; name another column with --config.data.columns=label=NAME")  # fmt: skip
    unnamed = (
        sum(not is_system(name) and not is_other(name) for name in files.names) - len(found) if not meaning.cells else 0
    )
    warnings = [f"{counted(unnamed, 'image')} without a row in {_names(tables)} left out"] if unnamed > 0 else []
    source = folders.source_of(config, files, classes, found)
    return dataclasses.replace(source, warnings=(*files.warnings, *warnings))


def find_files(path: Path) -> list[str]:
    """Returns the paths of the files that a table names, in its order, each once; those that are not there as the table has them.

    The files are searched in the folder of the table and below; the column is one with a usual name, else the first.

    Raises:
        DataError: a table that cannot be read, one without rows, or one that holds the images itself.
    """
    table = read_table(path)
    plain = {plain_name(name): name for name in reversed(table.names)}
    usual = next((plain[name] for name in USUAL["file"] if name in plain), "")
    if table.cells and not usual:
        raise DataError(f"{path} holds images in the cells of {table.cells[0]!r}, and prediction takes files; write each cell to a file, "
                        "and name their folder with --input=DIR")  # fmt: skip
    files = list_files(path.parent)
    finder = Finder(files, path)
    behead(table, {*USUAL["file"], *USUAL["label"]}, finder.has)
    column = table.names.index(table.file or usual or table.names[0])
    found = []
    for name in dict.fromkeys(row[column] for row in table.rows if len(row) > column and row[column]):
        number = finder.find(name)
        found.append(str(path.parent / (name if number is None else files.names[number])))
    return found


def _parts(config, table: Table, meaning: Meaning, finder: Finder | None) -> tuple[list[Table], list[str], list[str]]:
    """The tables of all parts of a set where the one given is train.csv or the like, a note, and lines about those left out."""
    own = part_of(table.path.stem)
    if not own or "split" in meaning.kinds or meaning.flags:
        return [table], [], []
    beside: dict[str, list[Path]] = defaultdict(list)
    numbers = _numbers(table.path.stem)
    for path in sorted(table.path.parent.iterdir()):
        part = part_of(path.stem)
        same = (
            part
            and part[1] == own[1]
            and path.suffix.lower() == table.path.suffix.lower()
            and _numbers(path.stem) == numbers
        )
        if same and path != table.path:
            beside[part[0]].append(path)
    # Another spelling of a part, valid.csv beside val.csv, is more likely a copy; the files of one table are numbered.
    beside = {
        split: [path for path in paths if SHARD.search(path.stem)] or paths[: split != own[0]]
        for split, paths in beside.items()
    }
    if own[0] != "train":  # it is evaluated by itself, and never together with what a network has learned from
        tables, lines = _usable([table], beside.get(own[0], []), config, meaning, finder)
        train = beside.get("train", [])[:1]
        return (
            tables,
            [f"{table.path.name} is used by itself; --config.data.path={path} uses all parts" for path in train],
            lines,
        )
    tables, lines = _usable([table], [path for split in PARTS for path in beside.get(split, ())], config, meaning, finder)
    named: dict[str, list[Table]] = defaultdict(list)
    for one in tables:
        named[part_of(one.path.stem)[0]].append(one)
    if len(named) == 1:
        return tables, [f"{table.path.name} is read together with {_names(tables[1:])}"] if tables[1:] else [], lines
    for split, several in named.items():
        for one in several:
            one.split = split
    return (
        tables,
        [f"the set brings its own parts: {', '.join(f'{_names(several)} for {split}' for split, several in named.items())}"],
        lines,
    )


def _numbers(stem: str) -> list[str]:
    """The numbers in a name; those that count the files of one table do not differ."""
    return re.findall(r"\d+", SHARD.sub("", stem))


def _usable(
    tables: list[Table], paths: Iterable[Path], config, meaning: Meaning, finder: Finder | None
) -> tuple[list[Table], list[str]]:
    """The tables and those at `paths` that have the same columns, and a line about each of the others."""
    said, first = [], tables[0]
    for path in paths:
        table = read_table(path)
        if finder:
            behead(table, _known(config), finder.has)
        lost = meaning.needed - {*table.names, *table.cells}
        if table.headless != first.headless or (lost - {*meaning.labels}):
            said.append(f"{path.name} has other columns than {first.path.name} and is left out")
        elif lost:
            said.append(f"{path.name} has no labels ({', '.join(sorted(lost)[:5])}) and is left out; predict its images with "
                        f"--mode=predict --input={path}")  # fmt: skip
        else:
            if meaning.marks:
                check_marks(table, meaning.marks)
            tables = [*tables, table]
    return tables, said


def _match(tables: Sequence[Table], meaning: Meaning, finder: Finder | None
           ) -> tuple[dict[int, Label], dict[str, Label], tuple[int, int]]:  # fmt: skip
    """Labels by the number of the file and, of files that are not there, by their name; the numbers of rows without a label, and of those
    that give a file another part than a row above.

    Raises:
        DataError: a row that is too short, or a file with two classes.
    """
    found: dict[int, Label] = {}
    missing: dict[str, Label] = {}
    empty = twice = before = 0
    for table in tables:
        read, part = meaning.reader(table), (part_of(table.path.stem) or ("",))[0]
        width = 1 + max(table.names.index(name) for name in meaning.needed if name in table.names)
        for number, values in enumerate(table.rows):
            if len(values) < width:
                raise DataError(
                    f"{table.path} has {len(values)} values in row {number + table.first}, and {len(table.names)} columns; fix that row"
                )
            file, label = read(values)
            if not label.name or not (file or meaning.cells):
                empty += 1
                continue
            i = finder.find(file, label.split or part) if finder else before + number
            known = missing.setdefault(file, label) if i is None else found.setdefault(i, label)
            if known.name != label.name:
                raise DataError(
                    f"{table.path} says that {file} is {known.name} and {label.name}; one class for each image is needed"
                )
            twice += known.split != label.split
        before += len(table.rows)
    return found, missing, (empty, twice)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    """Names in order, whole numbers by their value."""
    names = sorted(names)
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)
