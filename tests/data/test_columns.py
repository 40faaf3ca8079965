"""Columns of a listing: they are read as they were written, and a million rows take no memory of the process."""

import errno
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from cnnjax.data import columns
from cnnjax.data.columns import mapped, table
from cnnjax.errors import DataError

WORDS = ["b/Zoë 图.png", "", "a", "b", "a", "Z" * 5000, "b/Zoë", "\U0001f600", "\uffff"]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(columns, "PART", 4)


def test_texts_are_read_back_whatever_their_letters(small_parts):
    (texts,) = table(zip(WORDS), "string")
    assert list(texts) == WORDS and len(texts) == len(WORDS)
    assert [texts[i] for i in range(len(texts))] == WORDS and texts[np.int64(-1)] == WORDS[-1]
    assert texts.take(np.array([8, 0, 0])) == [WORDS[8], WORDS[0], WORDS[0]]


def test_texts_are_sorted_as_python_sorts_them_and_equal_ones_keep_their_order(small_parts):
    for words in (WORDS, WORDS[::-1], ["b", "a"] * 9):
        (texts,) = table(zip(words), "string")
        assert texts.order().tolist() == sorted(range(len(words)), key=words.__getitem__)


def test_table_has_a_column_of_each_kind(small_parts):
    rows = [(f"{i}", i % 3, 2**64 - 1 - i, bytes([i])) for i in range(11)]
    columns = table(iter(rows), "string", "int32", "uint64", "binary")
    assert list(zip(*columns, strict=True)) == rows
    assert columns[1].array.to_numpy().dtype == np.int32


def test_columns_are_equal_where_their_values_are(small_parts):
    (one,), (same,), (other,) = (table(zip(words), "string") for words in ("abcdef", "abcdef", "abcdeg"))
    assert one == same and one != other


def test_table_without_rows_has_empty_columns():
    texts, numbers = table([], "string", "int32")
    assert list(texts) == [] and len(texts.order()) == 0 and texts.take(np.array([], int)) == []
    assert numbers.array.to_numpy().shape == (0,)


def test_array_is_mapped_whole_from_its_parts():
    array = mapped([np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([7])], np.float32)
    assert array.tolist() == [0, 1, 2, 3, 4, 5, 7] and not array.flags.writeable
    assert mapped([], np.float32).shape == (0,)


MANY = """
from cnnjax.data.columns import table
def own():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
rows = lambda n: ((f"some/folder/name_{i:07}.png", i % 5, "group") for i in range(n))
few = table(rows(20_000), "string", "int64", "string")
before = own()
many = table(rows(600_000), "string", "int64", "string")
assert sum(map(len, many[0])) == 28 * 600_000
print(own() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_columns_of_many_rows_are_no_memory_of_the_process():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 6_000  # kB; the texts alone have 17,000


def test_full_disk_is_one_line(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match="no room for temporary files .No space left on device.; .* TMPDIR=DIR"):
        table([("a",)], "string")


@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full")
def test_disk_that_fills_up_while_rows_are_written_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(DataError, match="no room for temporary files"):
        table([("a",)], "string")


def test_error_of_what_gives_the_rows_is_not_taken_for_a_full_disk():
    def damaged():
        yield ("a",)
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        table(damaged(), "string")
