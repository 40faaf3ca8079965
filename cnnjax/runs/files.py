"""Files that are written whole or not at all, and JSON that is read with one-line errors."""

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnjax.errors import CheckpointError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a hidden file beside `path`, to be written; it takes its place once the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, in UTF-8; makes its folder."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def short_name(path: str) -> str:
    """Returns the last name of a path or an address, without the ending of an archive or a table, to name a file by."""
    last = re.sub(r"\.(zip|tar|tgz|tar\.\w+|csv|tsv|parquet)$", "", path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.-]+", "_", last) or "data"


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file whole or not at all."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file that this package has written.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; name a run directory with --workdir=DIR") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or use another --workdir") from None


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
