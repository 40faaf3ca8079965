"""Labels in a table: a file of rows that name images, their classes and, where there are such columns, groups and splits."""

import csv
import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cnnjax.data import folders
from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.examples import Label, Source
from cnnjax.data.layout import part_of
from cnnjax.data.listings import Files, list_files
from cnnjax.errors import DataError
from cnnjax.progress import counted

SUFFIXES = (".csv", ".tsv", ".parquet")
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


def is_table(path: str) -> bool:
    """Returns whether a path names a table, by its ending."""
    return path.lower().endswith(SUFFIXES)


def labelled(config, path: Path) -> Source:
    """Returns the images that a table names.

    Args:
        config: the `data` section; its `root` holds the files, else the folder of the table, and `columns` names columns.
        path: of the table.

    Raises:
        DataError: a table that cannot be read, columns that are not found, an image with two classes, fewer than two classes, or no file
            that is there.
    """
    names, rows, read_as = _read(path)
    columns = _columns(config, path, names)
    root = Path(config.root).expanduser() if config.root else path.parent
    if not root.exists():
        raise DataError(f"no such folder or archive: {root}; name the one that holds the images with --config.data.root=DIR")
    files = list_files(root, config.names)
    rows = list(rows)
    columns, ignored = _known_splits(config, path, names, rows, columns)
    wanted, empty = _by_file(path, names, rows, columns)
    find = _finder(files, path)
    found: dict[int, Label] = {}
    missing = []
    for file, row in wanted.items():
        number = find(file)
        if number is None:
            missing.append((file, f"named in {path.name}, but not there"))
        else:
            found[number] = row
    if not found:
        raise DataError(f"of {counted(len(wanted), 'file')} that {path} names, such as {next(iter(wanted), '')!r}, none is in {root}; name the "
                        "folder or archive that holds them with --config.data.root=DIR")  # fmt: skip
    said = [
        *read_as,
        *ignored,
        *([f"{counted(empty, 'row')} of {path.name} without a file or a label left out"] if empty else []),
    ]
    source = _source(config, path, files, found, missing, columns)
    return dataclasses.replace(source, warnings=(*said, *source.warnings))


def _source(config, path: Path, files: Files, found: dict[int, Label], missing: list, columns: dict[str, str]) -> Source:
    classes = tuple(config.classes) or _sorted({row.name for row in found.values()})
    if absent := sorted({*classes} - {row.name for row in found.values()}):
        raise DataError(f"{path} has no image of {', '.join(absent)}; set --config.data.classes")
    if len(classes) < 2:
        raise DataError(f"{path} has one class only ({', '.join(classes)}) in {columns['label']!r}; a classifier needs two or more; name "
                        "another column with --config.data.columns=label=NAME")  # fmt: skip
    unnamed = sum(not is_system(name) and not is_other(name) for name in files.names) - len(found)
    used = ", ".join(f"{name!r} is the {kind}" for kind, name in columns.items())
    warnings = [f"{counted(unnamed, 'image')} without a row in {path.name} left out"] if unnamed > 0 else []
    source = folders.source_of(config, files, classes, found)
    notes = (f"columns of {path.name}: {used}",)
    return dataclasses.replace(source, rejected=tuple(missing), notes=notes, warnings=(*files.warnings, *warnings))


def find_files(path: Path) -> list[str]:
    """Returns the paths of the files that a table names, in its order, each once; those that are not there as the table has them.

    The files are searched in the folder of the table and below; the column is one with a usual name, else the first.

    Raises:
        DataError: a table that cannot be read, or one without rows.
    """
    names, rows, _ = _read(path)
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(names)}
    column = names.index(next((plain[name] for name in USUAL["file"] if name in plain), names[0]))
    files = list_files(path.parent)
    find = _finder(files, path)
    found = []
    for name in dict.fromkeys(row[column] for row in rows if row[column]):
        number = find(name)
        found.append(str(path.parent / (name if number is None else files.names[number])))
    return found


def _read(path: Path) -> tuple[list[str], Iterable[Sequence[str]], list[str]]:
    """Names of the columns, the rows as text, and a line about another encoding than UTF-8."""
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        try:
            table = parquet.read_table(path)
        except Exception as error:  # of damage Arrow says it in many ways
            raise DataError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from None
        table = table.select([field.name for field in table.schema if not _is_opaque(field.type)])
        texts = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
        return table.column_names, zip(*texts, strict=True), []
    data, said = path.read_bytes(), []
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        said = [f"{path.name} is not in UTF-8 and is read as Windows-1252; save it as UTF-8 where letters are wrong"]
    lines = text.splitlines(keepends=True)
    head = lines[0] if lines else ""
    rows = csv.reader(lines, delimiter=max("\t;,", key=head.count))
    return [name.strip() for name in next(rows, [])], (row for row in rows if row), said


def _is_opaque(kind) -> bool:
    """Returns whether a column of Parquet holds bytes, such as images, or values in values, and no text."""
    from pyarrow import types

    return types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _columns(config, path: Path, names: list[str]) -> dict[str, str]:
    """Kind of column -> its name, of those that are there."""
    chosen = dict(entry.partition("=")[::2] for entry in config.columns)
    if unknown := [f"{kind}={name}" for kind, name in chosen.items() if kind not in USUAL or name not in names]:
        raise DataError(
            f"data.columns={','.join(unknown)}: write KIND=NAME, of {', '.join(USUAL)} and of the columns {', '.join(names)}"
        )
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(names)}
    for kind, usual in USUAL.items():
        if (
            kind not in chosen
            and (name := next((plain[name] for name in usual if name in plain), ""))
            and name not in chosen.values()
        ):
            chosen[kind] = name
    if len(names) == 2 and "split" not in chosen and "group" not in chosen:  # id,breed and the like
        chosen = {"file": chosen.get("file", names[0])} | chosen
        chosen.setdefault("label", next(name for name in names if name != chosen["file"]))
    if lost := [kind for kind in ("file", "label") if kind not in chosen]:
        ways = ",".join(f"{kind}=NAME" for kind in lost)
        raise DataError(f"{path} has the columns {', '.join(names)}, and none is known to be the {' or the '.join(lost)}; name it with "
                        f"--config.data.columns={ways}")  # fmt: skip
    return {kind: chosen[kind] for kind in USUAL if kind in chosen}


def _known_splits(config, path: Path, names: list[str], rows: list[Sequence[str]], columns: dict[str, str]
                  ) -> tuple[dict[str, str], list[str]]:  # fmt: skip
    """The columns without one of splits whose values name no parts, and a line about that.

    Raises:
        DataError: the user has named that column.
    """
    if "split" not in columns:
        return columns, []
    place = names.index(columns["split"])
    values = sorted({row[place].strip() for row in rows if len(row) > place})
    if all(map(part_of, values)):
        return columns, []
    shown = ", ".join(map(repr, values[:5])) + (", ..." if len(values) > 5 else "")
    said = f"{columns['split']!r} of {path.name} has the values {shown}, and only train, val and test name parts"
    if any(entry.startswith("split=") for entry in config.columns):
        raise DataError(f"{said}; rename them, or leave split= out of --config.data.columns")
    return {kind: name for kind, name in columns.items() if kind != "split"}, [f"{said}: it is not used"]


def _by_file(
    path: Path, names: list[str], rows: Iterable[Sequence[str]], columns: dict[str, str]
) -> tuple[dict[str, Label], int]:
    """File -> its row, and the number of rows without one. Raises DataError for a row that is too short, or a file with two classes."""
    places = {kind: names.index(name) for kind, name in columns.items()}
    found: dict[str, Label] = {}
    empty = 0
    for number, values in enumerate(rows, 2):
        if len(values) <= max(places.values()):
            raise DataError(f"{path} has {len(values)} values in row {number}, and {len(names)} columns; fix that row")
        texts = {kind: values[place].strip() for kind, place in places.items()}
        part = part_of(texts.get("split", ""))
        file, row = texts["file"], Label(texts["label"], texts.get("group", ""), part[0] if part else "")
        if not file or row.name.lower() in ("", "nan"):
            empty += 1
            continue
        if found.setdefault(file, row).name != row.name:
            raise DataError(
                f"{path} says that {file} is {found[file].name} and {row.name}; one class for each image is needed"
            )
    return found, empty


def _finder(files: Files, path: Path) -> Callable[[str], int | None]:
    """Returns a function from a file as a table names it to its number: by its path, else by its name, of any ending and capitals."""
    whole: dict[str, int] = {}
    short: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(files.names):
        if is_system(name) or is_other(name):
            continue
        whole[name] = number
        last = name.rpartition("/")[2]
        for known in {part.casefold() for part in (last, _stem(last), _stem(name))}:
            short[known].append(number)

    def find(file: str) -> int | None:
        file = file.replace("\\", "/").removeprefix("./")
        if (number := whole.get(file)) is not None:
            return number
        last = file.rpartition("/")[2]
        for name in (file, _stem(file), last, _stem(last)):
            if len(several := short.get(name.casefold(), [])) > 1:
                both = " and ".join(files.names[number] for number in several[:2])
                raise DataError(
                    f"{path} names {file}, which is {both}; name the folder as well, or another --config.data.root=DIR"
                )
            if several:
                return several[0]
        return None

    return find


def _stem(name: str) -> str:
    """A name without the ending of a picture."""
    return re.sub(r"\.(png|jpe?g|gif|bmp|webp|tiff?|dcm|heic|ppm|pgm)$", "", name, flags=re.IGNORECASE)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    """Names in order, whole numbers by their value."""
    names = sorted(names)
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)
