"""Files that are written whole or not at all, and JSON that is read with one-line errors."""

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnjax.errors import CheckpointError
from cnnjax.inside import read_small


@contextlib.contextmanager
def replacing(path: Path, before: Callable[[Path], None] = lambda temporary: None) -> Iterator[Path]:
    """Gives the name of a hidden file beside `path`, to be written; it takes its place once the block has ended without an error.

    Args:
        path: its folder is made.
        before: called with the hidden file when that is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # were it a link, what it leads to would be written
    try:
        yield temporary
        before(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, in UTF-8; makes its folder."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, replacing: Callable = replacing) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def short_name(path: str) -> str:
    """Returns the last name of a path or an address, without the ending of an archive or a table, to name a file by."""
    last = re.sub(r"\.(zip|tar|tgz|tar\.\w+|csv|tsv|parquet)$", "", path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.-]+", "_", last) or "data"


# Where a spreadsheet may see the beginning of a formula: at the beginning, and behind what some country's cells are separated by. The
# apostrophes of before make `cell` reversible.
_PLACE, _SIGN = r"(?:^|(?<=[;,\t\r\n|]))", r"(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])"
_FORMULA = re.compile(rf"{_PLACE}{_SIGN}|^(?='*[\t\r\n])")
_MARKED = re.compile(rf"{_PLACE}'{_SIGN}|^'(?='*[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell(value: Any) -> Any:
    """Returns a value as a table holds it: before a text that a spreadsheet may take for a formula stands an apostrophe."""
    return _FORMULA.sub("'", value) if isinstance(value, str) and not _NUMBER.fullmatch(value) else value


def text_of_cell(text: str) -> str:
    """Reverses `cell`."""
    return _MARKED.sub("", text)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence], replacing: Callable = replacing) -> None:
    """Writes a CSV file whole or not at all, its texts as `cell` has them."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(cell, header))
        writer.writerows(map(cell, row) for row in rows)


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yields the rows of a CSV file of this package, the header first. Raises CheckpointError for a damaged one."""
    try:
        if not path.is_file():
            raise ValueError("not a regular file")
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                yield [text_of_cell(text) for text in row]
    except (ValueError, csv.Error, OSError) as error:  # not UTF-8, a field without an end
        raise CheckpointError(damaged_line(path, error)) from None


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file that this package has written.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return json.loads(read_small(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; name a run directory with --workdir=DIR") from None
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(damaged_line(path, error)) from None


def damaged_line(path: Path, reason: object) -> str:
    """Returns the line about a file of a run that cannot be used."""
    return f"{path} is damaged ({' '.join(str(reason).split())}); restore it or use another --workdir"


def check_writable(directory: Path, advice: str) -> None:
    """Checks that a file can be made in a directory, which is made when missing.

    Raises:
        CheckpointError: it cannot; the message ends with the advice.
    """
    try:
        write_text(directory / ".writable", "")
        (directory / ".writable").unlink(missing_ok=True)  # another run may have made the same test
    except OSError as error:
        raise CheckpointError(f"cannot write to {directory} ({error.strerror}); {advice}") from None
