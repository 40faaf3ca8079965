"""Tables as their files hold them: names of columns, rows as text, and pictures in the cells of Parquet."""

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cnnjax.data.columns import table as in_columns
from cnnjax.data.listings import DataReference, Files, Reference
from cnnjax.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")
PICTURE = re.compile(r"\.(png|jpe?g|gif|bmp|webp|tiff?|dcm|heic|ppm|pgm)$", re.IGNORECASE)  # the ending of a picture
PICTURES = re.compile("im(a|)g|pic|photo|bytes|content|jpe?g|png", re.IGNORECASE)  # in the name of a column of pictures
BATCH = 64  # pictures that are read from cells at once


@dataclasses.dataclass
class Table:
    """A table whose values are text.

    Attributes:
        path: of its file.
        names: of its columns; their positions, "1", "2", ..., where it has no header.
        rows: a value for each column, or fewer where the file is damaged.
        cells: names of the columns of encoded pictures, which are not in `names`.
        said: lines about how it was read.
        headless: whether its first line is a row.
        file: name of the column of files, where `behead` has found it.
        split: the part that all its rows belong to; "" where it is not said.
    """

    path: Path
    names: list[str]
    rows: list[Sequence[str]]
    cells: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    headless: bool = False
    file: str = ""
    split: str = ""

    @property
    def first(self) -> int:
        """The number of the first row, as a spreadsheet counts."""
        return 1 if self.headless else 2


def read_table(path: Path) -> Table:
    """Reads a table, its pictures excepted.

    Raises:
        DataError: it cannot be read, or it is empty.
    """
    found = (_read_parquet if path.suffix.lower() == ".parquet" else _read_text)(path)
    if not found.names and not found.cells:
        raise DataError(f"{path} is empty; a table of labels has a row for each image, with its file and its class")
    return found


def _read_text(path: Path) -> Table:
    data, said = path.read_bytes(), ()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        said = (f"{path.name} is not in UTF-8 and is read as Windows-1252; save it as UTF-8 where letters are wrong",)
    lines = text.splitlines(keepends=True)
    head = lines[0] if lines else ""
    rows = csv.reader(lines, delimiter=max("\t;,", key=head.count))
    try:
        return Table(path, [name.strip() for name in next(rows, [])], [row for row in rows if row], said=said)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table, near line {rows.line_num:,} ({error}); look for a quote (\") that is "
                        "not closed")  from None  # fmt: skip


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            table = file.read(columns=[field.name for field in schema if not _is_opaque(field.type)])
    except Exception as error:  # of damage Arrow says it in many ways
        raise DataError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    classes = _class_names(schema)
    texts = [
        _texts(column.to_pylist(), classes.get(name, ()))
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    rows = list(zip(*texts, strict=True)) if texts else [()] * table.num_rows
    return Table(path, table.column_names, rows, tuple(field.name for field in schema if _holds_pictures(field)))


def _texts(values: Sequence, classes: Sequence[str]) -> list[str]:
    """Values as text, numbers of classes as their names; "" for none."""
    if classes:
        return ["" if value is None or not 0 <= value < len(classes) else classes[value] for value in values]
    return ["" if value is None else str(value) for value in values]


def _class_names(schema) -> dict[str, list[str]]:
    """Names of the classes by column, as the `datasets` of Hugging Face keep them in the schema; {} without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _is_opaque(kind) -> bool:
    """Returns whether a column of Parquet holds bytes, such as images, or values in values, and no text."""
    from pyarrow import types

    return types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _holds_pictures(field) -> bool:
    """Returns whether a column may hold encoded pictures: structures with bytes, or bytes where its name says so."""
    from pyarrow import types

    if types.is_struct(field.type):
        place = field.type.get_field_index("bytes")
        return place >= 0 and _is_bytes(field.type.field(place).type)
    return _is_bytes(field.type) and bool(PICTURES.search(field.name))


def _is_bytes(kind) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def behead(table: Table, known: set[str], is_there: Callable[[str], bool]) -> None:
    """Makes the first line of a table without a header its first row.

    Args:
        table: changed in place; one of Parquet always has names.
        known: names, in small letters and without signs or as they are, of which one tells that the line is a header.
        is_there: whether a text names a file of the set.
    """
    if table.path.suffix.lower() == ".parquet":
        return
    pictures = [place for place, text in enumerate(table.names) if PICTURE.search(text)]
    if not pictures and not any({text.lower(), re.sub(r"[\W_]", "", text.lower())} & known for text in table.names):
        pictures = [place for place, text in enumerate(table.names) if is_there(text)]
    if pictures:
        table.rows.insert(0, table.names)
        table.names, table.headless = [str(place + 1) for place in range(len(table.names))], True
        table.file = table.names[pictures[0]]


def cell_files(tables: Sequence[Table], column: str) -> Files:
    """Lists the pictures in a column of tables as files; they are read from the first to the last.

    Their names are the paths that the cells hold beside the bytes, or the table and the number of the row, from 0, where cells have
    no path or one that comes twice.
    """
    paths = [_cell_paths(table.path, column) for table in tables]
    stats = [table.path.stat() for table in tables]
    named = _are_names(paths)

    def rows() -> Iterator[tuple[str, int, int]]:
        for number, table in enumerate(tables):
            chunks = paths[number].chunks if named else ()
            names = itertools.chain.from_iterable(chunk.to_pylist() for chunk in chunks)
            for row in range(len(table.rows)):
                yield next(names) if named else f"{table.path.stem}/{row:06}", number, row

    names, *places = in_columns(rows(), "string", "int32", "int64")
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    return Files(
        names,
        places,
        lambda place: (*facts[place[0]], place[1]),
        [],
        _no_reference,
        stream=lambda: _stream(tables, column),
        sized=False,
    )


def _no_reference(name: str, place: tuple) -> Reference:
    raise NotImplementedError("pictures in cells are read in their order")


def _cell_paths(path: Path, column: str):
    """The paths in the cells of a column as an Arrow array [rows]; None where they have none."""
    from pyarrow import compute, parquet, types

    with parquet.ParquetFile(path) as file:
        kind = file.schema_arrow.field(column).type
        if not types.is_struct(kind) or kind.get_field_index("path") < 0 or not types.is_string(kind.field("path").type):
            return None
        return compute.struct_field(file.read(columns=[f"{column}.path"]).column(0), "path")


def _are_names(paths: Sequence) -> bool:
    """Returns whether the cells of all tables have paths, each another one."""
    import pyarrow
    from pyarrow import compute

    if any(array is None or array.null_count for array in paths):
        return False
    whole = pyarrow.chunked_array([chunk for array in paths for chunk in array.chunks], pyarrow.string())
    return len(whole) == compute.count_distinct(whole).as_py() and compute.all(compute.not_equal(whole, "")).as_py()


def _stream(tables: Sequence[Table], column: str) -> Iterator[tuple[int, Reference]]:
    from pyarrow import parquet, types

    number = 0
    for table in tables:
        # Buffered: a whole group of rows, which may be the whole file, is not in memory at once.
        with parquet.ParquetFile(table.path, buffer_size=2**20, pre_buffer=False) as file:
            nested = types.is_struct(file.schema_arrow.field(column).type)
            for batch in file.iter_batches(BATCH, columns=[f"{column}.bytes" if nested else column]):
                for cell in batch.column(0).field("bytes") if nested else batch.column(0):
                    yield number, DataReference(cell.as_py() or b"")
                    number += 1
