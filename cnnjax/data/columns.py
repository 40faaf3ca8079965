"""Columns of a listing, of which a million rows take a few megabytes of a process's own memory.

Long columns, such as names of files, are stored in an anonymous temporary file and mapped from there: the system reads what is
looked at and may let go of it again. Such files are where `tempfile` makes its own (TMPDIR), and are gone with the column.
"""

import contextlib
import dataclasses
import heapq
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from cnnjax.errors import DataError

PART = 10_000  # rows that are held as Python objects at once


class Spool:
    """Takes an array in parts, within a `with`, and gives it mapped from an anonymous temporary file.

    Args:
        dtype: of the array; without objects.

    Raises:
        DataError: no room for the file, from any method.
    """

    def __init__(self, dtype):
        self._dtype = np.dtype(dtype)

    def __enter__(self) -> "Spool":
        with _readable_shortage():
            self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_) -> None:
        self._file.close()  # what is mapped stays

    def write(self, rows: Sequence) -> None:
        """Adds what becomes `dtype` [n]."""
        # Written, not mapped: on a full disk a write is an error, a touched page of a mapping is a crash.
        with _readable_shortage():
            self._file.write(np.asarray(rows, self._dtype))

    def mapped(self) -> np.ndarray:
        """`dtype` [all that was written], read-only."""
        with _readable_shortage():
            self._file.flush()
            count = self._file.tell() // self._dtype.itemsize
            return np.asarray(np.memmap(self._file, self._dtype, "r", shape=count)) if count else np.empty(0, self._dtype)


@contextlib.contextmanager
def _readable_shortage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"no room for temporary files ({error.strerror or error}); name a directory with room with TMPDIR=DIR "
                        "in the environment") from None  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Texts(Sequence):
    """Texts of any length.

    Attributes:
        letters: uint8 [bytes], mapped: texts in UTF-8, one after the other.
        ends: int64 [texts + 1], mapped: text i is `letters[ends[i] : ends[i + 1]]`.
        rows: uint32 [n], which of these texts, in the order of this column.
        skipped: bytes that are left out at the beginning of each.
    """

    letters: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> str:
        row = int(self.rows[i])
        return str(self.letters[self.ends[row] + self.skipped : self.ends[row + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), PART):
            rows = self.rows[at : at + PART].astype(np.int64)
            starts, ends = self.ends[rows] + self.skipped, self.ends[rows + 1]
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                yield str(self.letters[start:end], "utf-8")

    def take(self, rows: np.ndarray | slice) -> "Texts":
        """Returns the texts at `rows`, in the order of `rows`."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def order(self) -> np.ndarray:
        """uint32 [n]: where the texts stand, sorted; of equal ones the first comes first."""
        sorted_parts = []  # of all at once NumPy would hold 40 bytes or more each
        for at in range(0, len(self), PART):
            part = np.array(list(self.take(slice(at, at + PART))), np.dtypes.StringDType())
            sorted_parts.append((at + np.argsort(part, kind="stable")).astype(np.uint32))
        return np.fromiter(heapq.merge(*sorted_parts, key=self.__getitem__), np.uint32, len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated(Sequence):
    """Few different values many times: each is held once. Equal to a list of the same.

    Attributes:
        values: the different ones.
        numbers: uint32 [n], for every row its place among them.
    """

    values: list
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int):
        return self.values[self.numbers[i]]

    def __iter__(self) -> Iterator:
        for at in range(0, len(self), PART):
            yield from map(self.values.__getitem__, self.numbers[at : at + PART].tolist())

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def take(self, rows: np.ndarray) -> "Repeated":
        """Returns the values at int64 `rows`, in the order of `rows`."""
        return Repeated(self.values, self.numbers[rows])

    def where(self, wanted: Callable) -> np.ndarray:
        """bool [n]: the rows whose value is wanted."""
        return np.array([bool(wanted(value)) for value in self.values], bool)[self.numbers]


def table(rows: Iterable[tuple], *kinds) -> list[Texts | Repeated | np.ndarray]:
    """The columns of rows that come one by one and are not kept.

    Args:
        rows: a value for each column.
        kinds: of each column `Texts`, `Repeated`, or the dtype of an array.

    Raises:
        DataError: no room for the files.
    """
    with contextlib.ExitStack() as held:
        spools = [held.enter_context(SPOOLS[kind]() if kind in SPOOLS else Spool(kind)) for kind in kinds]
        for part in in_parts(rows):
            for spool, values in zip(spools, zip(*part, strict=True), strict=True):
                spool.write(list(values))
        return [spool.mapped() for spool in spools]


class _Letters(Spool):
    """Writes `Texts`."""

    def __init__(self):
        super().__init__(np.uint8)
        self._ends, self._end = Spool(np.int64), 0

    def __enter__(self) -> "_Letters":
        super().__enter__()
        self._ends.__enter__().write([0])
        return self

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._ends.__exit__(*error)

    def write(self, rows: list[str]) -> None:
        texts = [text.encode() for text in rows]
        super().write(np.frombuffer(b"".join(texts), np.uint8))
        ends = self._end + np.cumsum([len(text) for text in texts])
        self._ends.write(ends)
        self._end = ends[-1]

    def mapped(self) -> Texts:
        ends = self._ends.mapped()
        return Texts(super().mapped(), ends, np.arange(len(ends) - 1, dtype=np.uint32))


class _Numbers(Spool):
    """Writes `Repeated`."""

    def __init__(self):
        super().__init__(np.uint32)
        self._known = {}

    def write(self, rows: list) -> None:
        super().write([self._known.setdefault(value, len(self._known)) for value in rows])

    def mapped(self) -> Repeated:
        return Repeated(list(self._known), super().mapped())


SPOOLS = {Texts: _Letters, Repeated: _Numbers}


def in_parts(items: Iterable) -> Iterator[list]:
    """Lists of `PART` items, the last one shorter."""
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, PART)), [])
