"""More columns about images, such as site or device, from a table beside the data: `data.metadata`."""

from collections.abc import Sequence
from pathlib import Path

from cnnjax import runs
from cnnjax.data.columns import Column
from cnnjax.data.columns import table as in_columns
from cnnjax.data.listings import DataReference, Files
from cnnjax.data.table_columns import USUAL, plain_name
from cnnjax.data.table_files import SUFFIXES, Table, behead, read_table
from cnnjax.data.table_finder import Finder
from cnnjax.errors import DataError
from cnnjax.progress import Progress, counted

ADVICE = "name a table with --config.data.metadata=FILE, or leave it out with --config.data.metadata="


def read_metadata(path: str, ids: Sequence[str], progress: Progress) -> dict[str, Column]:
    """Returns the columns of `data.metadata` beside the one that names images: name -> a text for each of `ids`, "" without a row.

    Rows name images by their path, name, name without its ending, or id.

    Args:
        path: of the table; "": none.
        ids: of the images.
        progress: hears what is used, and how many rows and images have no partner.

    Raises:
        DataError: no such table, one that cannot be read, a row that fits several images, two rows that say different things of an
            image, or no row of an image.
    """
    if not path:
        return {}
    table, place = _opened(Path(path).expanduser(), ids)
    names = [name for i, name in enumerate(table.names) if i != place]
    found, strangers = _matched(table, place, ids)
    if not found:
        raise DataError(
            f"none of {counted(len(table.rows), 'row')} of {table.path} names an image of the data, such as {ids[0]!r}; {ADVICE}"
        )
    for line in table.said:
        progress.warn(line)
    progress.message(f"  {table.path.name} tells {', '.join(names)} of {counted(len(found), 'image')}")
    if missing := len(ids) - len(found):
        progress.warn(f"{counted(missing, 'image')} without a row in {table.path.name}")
    if strangers:
        progress.warn(f"{counted(len(strangers), 'row')} of {table.path.name} left out: no image is called {strangers[0]!r}")
    nothing = [""] * len(names)
    return dict(
        zip(names, in_columns((found.get(i, nothing) for i in range(len(ids))), *["string"] * len(names)), strict=True)
    )


def _opened(path: Path, ids: Sequence[str]) -> tuple[Table, int]:
    """Returns the table and the position of the column that names images: one with a usual name, else the first."""
    if runs.is_remote(str(path)) or path.suffix.lower() not in SUFFIXES:
        raise DataError(f"data.metadata={path} is not a table on this machine ({', '.join(SUFFIXES)}); {ADVICE}")
    if not path.is_file():
        raise DataError(f"no such table: {path}; {ADVICE}")
    try:
        table = read_table(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {ADVICE}") from None
    behead(table, {*USUAL["file"], *USUAL["label"], *USUAL["group"]}, _finder(path, ids).has)
    if len(table.names) < 2 or len(set(table.names)) < len(table.names):
        raise DataError(
            f"{path} has the columns {', '.join(table.names)}; it needs one of files and others, each of another name; {ADVICE}"
        )
    plain = [plain_name(name) for name in table.names]
    usual = next((plain.index(name) for name in USUAL["file"] if name in plain), 0)
    return table, table.names.index(table.file) if table.file else usual


def _finder(path: Path, ids: Sequence[str]) -> Finder:
    return Finder(Files(ids, [], tuple, [], lambda name, place: DataReference(b"")), path)


def _matched(table: Table, place: int, ids: Sequence[str]) -> tuple[dict[int, list[str]], list[str]]:
    """Values by the number of the image, and the names in rows that fit none."""
    finder, found, strangers = _finder(table.path, ids), {}, []
    for number, row in enumerate(table.rows):
        if len(row) != len(table.names):
            raise DataError(
                f"{table.path} has {len(row)} values in row {number + table.first}, and {len(table.names)} columns; fix that row"
            )
        name, values = row[place].strip(), [value.strip() for i, value in enumerate(row) if i != place]
        try:
            i = finder.find(name) if name else None
        except DataError:
            raise DataError(
                f"{table.path} names {name}, and several images are called that; write their folders as well"
            ) from None
        if i is None:
            strangers.append(name)
        elif found.setdefault(i, values) != values:
            raise DataError(f"{table.path} has two rows about {name} that differ; leave one")
    return found, strangers
