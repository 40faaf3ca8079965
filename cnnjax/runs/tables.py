"""Tables of results, written row by row, whole or not at all, in the format that their name ends in."""

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cnnjax.runs.files import cell, replacing

PART = 10_000  # rows that are written to Parquet at once

Write = Callable[[Sequence], None]


@contextlib.contextmanager
def _separated(path: Path, header: dict[str, type], delimiter: str) -> Iterator[Write]:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(map(cell, header))
        yield lambda row: writer.writerow([cell(value) for value in row])


@contextlib.contextmanager
def _lines(path: Path, header: dict[str, type]) -> Iterator[Write]:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield lambda row: file.write(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _parquet(path: Path, header: dict[str, type]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [(name, pyarrow.float64() if kind is float else pyarrow.string()) for name, kind in header.items()]
    )
    rows: list[Sequence] = []
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            columns = zip(*rows, strict=True) if rows else itertools.repeat((), len(header))
            writer.write_table(pyarrow.table([pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)],
                                             schema=schema))  # fmt: skip
            rows.clear()

        def write(row: Sequence) -> None:
            rows.append(row)
            if len(rows) == PART:
                flush()

        yield write
        flush()


# Ending of the name -> how the table is written.
TABLES: dict[str, Callable] = {
    ".csv": lambda path, header: _separated(path, header, ","),
    ".tsv": lambda path, header: _separated(path, header, "\t"),
    ".parquet": _parquet,
    ".jsonl": _lines,
}


def write_table(path: Path, header: dict[str, type], rows: Iterable[Sequence]) -> None:
    """Writes a table in the format of its name's ending, one of `TABLES`.

    Args:
        path: of the table.
        header: name of a column -> float, or str.
        rows: values in the order of the header; None where there is none.
    """
    with TABLES[path.suffix.lower()](path, header) as write:
        for row in rows:
            write(row)
