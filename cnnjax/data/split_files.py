"""A split of one's own: a table that says for each image in which split it is, such as the `splits.csv` of another run."""

from collections.abc import Sequence
from pathlib import Path

from cnnjax import runs
from cnnjax.data.examples import Example
from cnnjax.data.layout import part_of
from cnnjax.data.table_columns import USUAL, plain_name
from cnnjax.data.table_files import read_table
from cnnjax.errors import DataError
from cnnjax.progress import counted


def assignment(path: Path, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """Returns the split of each example, "" of those that the table leaves out, and lines about what does not match.

    Args:
        path: a table as of labels: the images by their ids (paths below the data's folder), and train,
            val or test, in any usual spelling.
        examples: of the source.

    Raises:
        DataError: no such file, no such columns, a word that names none, an image in two splits, or not one that is there.
    """
    wanted = _read(path)
    splits = [wanted.pop(example.id, "") for example in examples]
    found = sum(map(bool, splits))
    if not found:
        raise DataError(f"split.file={path} names no image of the data: it has {next(iter(wanted), '')!r}, the data has {examples[0].id!r}; "
                        "write paths below the data's folder")  # fmt: skip
    lines = []
    if left := len(splits) - found:
        lines.append(f"{counted(left, 'image')} left out, not in {path}")
    if wanted:
        lines.append(
            f"{counted(len(wanted), 'image')} of {path} {'is' if len(wanted) == 1 else 'are'} not in the data, such as {min(wanted)!r}"
        )
    return splits, lines


def _read(path: Path) -> dict[str, str]:
    """Id -> split, as a table says it."""
    if not path.is_file():
        raise DataError(f"split.file={path}: no such file; name a table with the columns id and split")
    wanted: dict[str, str] = {}
    table = read_table(path)
    plain = {plain_name(name): place for place, name in reversed([*enumerate(table.names)])}
    places = [next((plain[name] for name in USUAL[kind] if name in plain), None) for kind in ("file", "split")]
    if None in places:
        raise DataError(f"split.file={path} has the columns {', '.join(table.names)}; it needs id and split")
    for row in table.rows:
        id, word = (row[place] if place < len(row) else "" for place in places)
        id, part = runs.text_of_cell(id), part_of(word)
        if part is None or part[1]:
            raise DataError(f"split.file={path} has {word!r} for {id!r}; write train, val or test")
        if wanted.setdefault(id, part[0]) != part[0]:
            raise DataError(f"split.file={path} has {id!r} in {wanted[id]} and in {part[0]}; leave one row")
    return wanted
