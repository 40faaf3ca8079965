"""Columns of a listing, of which a million rows take a few megabytes of a process's own memory.

Columns are Arrow arrays in an anonymous temporary file and mapped from there: the system reads what is looked at and may let go of
it again. Such files are where `tempfile` makes its own (TMPDIR), and are gone with the column.
"""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.errors import DataError

if TYPE_CHECKING:
    import pyarrow  # else imported where rows are listed: it takes a tenth of a second

PART = 10_000  # rows that are held as Python objects at once


def mapped(parts: Iterable, dtype) -> np.ndarray:
    """Writes parts, one after the other, to an anonymous temporary file; returns all of it mapped: `dtype` [n], read-only.

    Args:
        parts: contiguous arrays or other buffers.
        dtype: without objects.

    Raises:
        DataError: no room for the file.
    """
    with _readable_shortage():
        file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        for part in parts:
            # Written, not mapped: on a full disk a write is an error, a touched page of a mapping is a crash.
            with _readable_shortage():
                file.write(part)
        with _readable_shortage():
            file.flush()
            return np.asarray(np.memmap(file, dtype, "r")) if file.tell() else np.empty(0, dtype)
    finally:
        with contextlib.suppress(OSError):  # it tries again to write what a full disk has not taken
            file.close()


@contextlib.contextmanager
def _readable_shortage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"no room for temporary files ({error.strerror or error}); name a directory with room with TMPDIR=DIR "
                        "in the environment") from None  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Column(Sequence):
    """A mapped Arrow array [n], read as Python values."""

    array: "pyarrow.ChunkedArray"

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int) -> Any:
        return self.array[i].as_py()

    def __iter__(self) -> Iterator:
        for chunk in self.array.iterchunks():  # of `PART` rows
            yield from chunk.to_pylist()

    def take(self, rows: np.ndarray) -> list:
        """Returns the values at int64 `rows`, in the order of `rows`."""
        return self.array.take(rows).to_pylist()

    def order(self) -> np.ndarray:
        """int64 [n]: where the values stand, sorted, texts by code point; of equal ones the first comes first."""
        from pyarrow import compute

        return compute.sort_indices(self.array).to_numpy().astype(np.int64)


def table(rows: Iterable[tuple], *kinds: str) -> list[Column]:
    """The columns of rows that come one by one and are not kept.

    Args:
        rows: a value for each column.
        kinds: Arrow's name of the type of each column, such as "string" or "int64".

    Raises:
        DataError: no room for the file.
    """
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # the default one keeps 20 MB that nothing uses
    schema = pyarrow.schema([(str(number), kind) for number, kind in enumerate(kinds)])

    def messages() -> Iterator:
        yield schema.serialize()
        for part in in_parts(rows):
            values = dict(zip(schema.names, zip(*part, strict=True), strict=True))
            yield pyarrow.RecordBatch.from_pydict(values, schema).serialize()

    stream = pyarrow.py_buffer(mapped(messages(), np.uint8))
    return list(map(Column, pyarrow.ipc.open_stream(stream).read_all().columns))


def in_parts(items: Iterable) -> Iterator[list]:
    """Lists of `PART` items, the last one shorter."""
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, PART)), [])
