"""Tables of results: the same rows in every format, whole or not at all."""

import csv
import json

import pytest
from pyarrow import parquet

from cnnjax.runs import TABLES, write_table

HEADER = {"path": str, "p_a": float, "error": str}
ROWS = [("=cmd().png", 0.25, ""), ("Größe, 2.png", None, "damaged"), ("c\nd.png", 1.0, "")] * 4000


def read(path):
    if path.suffix == ".parquet":
        return [tuple(row.values()) for row in parquet.read_table(path).to_pylist()]
    if path.suffix == ".jsonl":
        return [tuple(json.loads(line).values()) for line in path.read_text(encoding="utf-8").splitlines()]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))[1:]
    return [(path, float(p) if p else None, error) for path, p, error in rows]


@pytest.mark.parametrize("ending", [*TABLES, ".CSV"])
def test_every_format_has_the_same_rows(tmp_path, ending):
    path = tmp_path / "new" / f"table{ending}"
    write_table(path, HEADER, iter(ROWS))
    found = read(path)
    if ending.lower() in (".csv", ".tsv"):  # a spreadsheet would run it
        assert found[0] == ("'=cmd().png", 0.25, "")
        found = [("=cmd().png", *row[1:]) if row[0].startswith("'") else row for row in found]
    assert found == ROWS and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", TABLES)
def test_no_rows_are_a_table_too_and_an_error_leaves_what_was_there(tmp_path, ending):
    path = tmp_path / f"table{ending}"
    write_table(path, HEADER, [])
    assert read(path) == []
    before = path.read_bytes()

    def rows():
        yield ROWS[0]
        raise ValueError

    with pytest.raises(ValueError):
        write_table(path, HEADER, rows())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
