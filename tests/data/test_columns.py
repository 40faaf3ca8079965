"""Columns of a listing: they are read as they were written, and a million rows take no memory of the process."""

import errno
import tempfile
import tracemalloc

import numpy as np
import pytest

from cnnjax.data import columns
from cnnjax.data.columns import Repeated, Spool, Texts, table
from cnnjax.errors import DataError

WORDS = ["b/Zoë 图.png", "", "a", "b", "a", "Z" * 5000, "b/Zoë", "\U0001f600", "\uffff"]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(columns, "PART", 4)


def test_texts_are_read_back_whatever_their_letters(small_parts):
    (texts,) = table(zip(WORDS), Texts)
    assert list(texts) == WORDS and len(texts) == len(WORDS)
    assert [texts[i] for i in range(len(texts))] == WORDS and texts[np.int64(-1)] == WORDS[-1]
    assert list(texts.take(np.array([8, 0, 0]))) == [WORDS[8], WORDS[0], WORDS[0]]
    assert list(texts.take(np.array([word == "a" for word in WORDS]))) == ["a", "a"]


def test_texts_are_sorted_as_python_sorts_them_and_equal_ones_keep_their_order(small_parts):
    (texts,) = table(zip(WORDS), Texts)
    assert texts.order().tolist() == sorted(range(len(WORDS)), key=WORDS.__getitem__)
    backwards = texts.take(np.arange(len(WORDS))[::-1])
    assert list(backwards.take(backwards.order())) == sorted(WORDS)


def test_repeated_values_are_held_once_and_behave_as_a_list(small_parts):
    items = ["b", "a", "b", "", "a"]
    (held,) = table(zip(items), Repeated)
    assert held == items and items == held and len(held) == 5 and held != items[1:]
    assert held.values == ["b", "a", ""] and held[-1] == "a" and held[np.int64(2)] == "b"
    assert held.take(np.array([4, 0])) == ["a", "b"] and held.take(np.array([], np.int64)) == []
    assert held.where(lambda text: text != "a").tolist() == [True, False, True, True, False]


def test_table_has_a_column_of_each_kind(small_parts):
    rows = [(f"{i}", i % 3, i, (i, b"x")) for i in range(11)]
    texts, repeated, numbers, pairs = table(iter(rows), Texts, Repeated, np.int32, np.dtype([("n", "i8"), ("t", "S1")]))
    assert list(zip(texts, repeated, numbers.tolist(), pairs.tolist(), strict=True)) == rows
    assert numbers.dtype == np.int32 and pairs["n"].tolist() == list(range(11))


def test_table_without_rows_has_empty_columns():
    texts, repeated, numbers = table([], Texts, Repeated, np.int32)
    assert list(texts) == [] and len(texts.order()) == 0 and repeated == [] and numbers.shape == (0,)
    assert not len(repeated.where(bool))


def test_columns_of_many_rows_are_no_memory_of_the_process():
    count = 200_000
    tracemalloc.start()
    try:
        held = table(((f"some/folder/name_{i:07}.png", i % 5, i) for i in range(count)), Texts, Repeated, np.int64)
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held[0]) == count and now < 6 * count  # the rows of the texts take 4 bytes each
    assert most < now + 500 * columns.PART  # of rows that are held as Python objects for a moment


def test_full_disk_is_one_line(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match="no room for temporary files .No space left on device.; .* TMPDIR=DIR"), Spool("u1"):
        pass
