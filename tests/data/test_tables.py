"""Labels in tables, as competitions and registries give them."""

import shutil

import pytest
from table_tools import opened, write

from cnnjax.errors import DataError


@pytest.fixture
def pictures(make_folder, tmp_path):
    """Files a.png ... f.png in pictures/, without class folders."""
    made = make_folder(tmp_path / "made", ("x",), 6)
    (tmp_path / "pictures").mkdir()
    for name, path in zip("abcdef", sorted(made.rglob("*.png")), strict=True):
        shutil.move(path, tmp_path / "pictures" / f"{name}.png")
    shutil.rmtree(made)
    return tmp_path


def labels(source) -> dict[str, str]:
    return {e.id: source.classes[e.label] for e in source.examples}


EXPECTED = {f"pictures/{name}.png": kind for name, kind in zip("abcdef", ("cat", "dog") * 3, strict=True)}


@pytest.mark.parametrize(("file", "columns"), [
    ("{}", ("id", "breed")), ("{}.png", ("image", "label")), ("pictures/{}.png", ("path", "class")), ("{}.png", ("what", "kind")),
    ("{}.JPG", ("Image Index", "Finding Labels")), ("./pictures/{}.png", ("File Name", "Category")), ("C:\\data\\{}.png", ("image_path", "target")),
])  # fmt: skip
def test_files_are_found_by_path_name_and_stem(pictures, file, columns):
    rows = [(file.format(name), kind) for name, kind in zip("abcdef", ("cat", "dog") * 3, strict=True)]
    source = opened(write(pictures / "labels.csv", columns, *rows))
    assert labels(source) == EXPECTED and source.rejected == () and source.warnings == ()
    assert source.notes == (f"columns of labels.csv: {columns[0]!r} is the file, {columns[1]!r} is the label",)
    assert {i for i, reference in source.stream() if reference.read()[:4] == b"\x89PNG"} == set(range(6))


@pytest.mark.parametrize(("delimiter", "encoding", "suffix"), [(";", "utf-8-sig", ".csv"), ("\t", "utf-16", ".tsv")])
def test_groups_and_splits_have_columns_of_their_own(pictures, delimiter, encoding, suffix):
    rows = [(f"{name}.png", i % 2, f"P{i // 2}", part) for i, (name, part) in
            enumerate(zip("abcdef", ("train", "train", "Validation", "valid", "test", "Testing"), strict=True))]  # fmt: skip
    source = opened(
        write(
            pictures / f"labels{suffix}",
            ("filename", "dx", "patient_id", "set"),
            *rows,
            delimiter=delimiter,
            encoding=encoding,
        )
    )
    assert source.classes == ("0", "1")
    assert list(source.examples.groups) == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert list(source.examples.splits) == ["train", "train", "val", "val", "test", "test"]


def test_parquet_and_a_folder_elsewhere(pictures):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (pictures / "tables").mkdir()
    table = pyarrow.table({"image_id": list("abcdef"), "label": [10, 9] * 3})
    parquet.write_table(table, pictures / "tables" / "x.parquet")
    with pytest.raises(DataError, match=r"of 6 files that .* names, such as 'a', none is in .*--config.data.root=DIR"):
        opened(pictures / "tables" / "x.parquet")
    source = opened(pictures / "tables" / "x.parquet", root=str(pictures / "pictures"))
    assert source.classes == ("9", "10") and labels(source)["a.png"] == "10"


def test_an_archive_of_files_and_columns_that_are_named(pictures):
    shutil.make_archive(str(pictures / "all"), "zip", pictures / "pictures")
    path = write(
        pictures / "t.csv", ("n", "quality", "what"), *((f"{n}.png", "good", "cat" if n < "d" else "dog") for n in "abcdef")
    )
    with pytest.raises(
        DataError, match=r"columns n, quality, what, and none is known to be the file or the label; name it with"
    ):
        opened(path, root=str(pictures / "all.zip"))
    source = opened(path, root=str(pictures / "all.zip"), columns=("file=n", "label=what"))
    assert list(labels(source).values()) == ["cat"] * 3 + ["dog"] * 3
    with pytest.raises(DataError, match="write KIND=NAME, of file, label, group, split and of the columns n, quality, what"):
        opened(path, columns=("label=kind",))


def test_rows_without_files_and_files_without_rows_are_named(pictures):
    source = opened(write(pictures / "t.csv", ("file", "label"), ("a", "cat"), ("b", "dog"), ("gone", "dog")))
    assert source.rejected == (("gone", "named in t.csv, but not there"),)
    assert source.warnings == ("4 images without a row in t.csv left out",)


def test_values_that_name_no_parts_are_told(pictures):
    path = write(
        pictures / "t.csv",
        ("file", "label", "fold"),
        *((n, "cat" if n < "d" else "dog", i % 2) for i, n in enumerate("abcdef")),
    )
    source = opened(path)
    assert set(source.examples.splits) == {""}
    assert source.warnings == (
        "'fold' of t.csv has the values '0', '1', and only train, val and test name parts: it is not used",
    )
    with pytest.raises(DataError, match="only train, val and test name parts; rename them, or leave split= out"):
        opened(path, columns=("split=fold",))


def test_bytes_and_structures_of_parquet_are_no_columns(pictures):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [[1, 2]], "digest": [b"x"], "label": [1]}), pictures / "t.parquet")
    with pytest.raises(DataError, match="has the columns label, and none is known to be the file"):
        opened(pictures / "t.parquet")


def test_another_encoding_and_rows_without_a_label_are_told(pictures):
    rows = (("a", "Flügel"), ("b", "Dach"), ("c", ""), ("d", "NaN"))
    source = opened(write(pictures / "t.csv", ("file", "label"), *rows, encoding="cp1252"))
    assert source.classes == ("Dach", "Flügel") and source.warnings[:2] == (
        "t.csv is not in UTF-8 and is read as Windows-1252; save it as UTF-8 where letters are wrong",
        "2 rows of t.csv without a file or a label left out",
    )


@pytest.mark.parametrize(("rows", "said"), [
    ([("a", "cat"), ("a", "dog"), ("b", "dog")], "says that a is cat and dog"),
    ([("a", "cat"), ("b", "cat")], "has one class only .cat."),
    ([("a", "cat"), ("b",)], "has 1 values in row 3, and 2 columns"),
])  # fmt: skip
def test_tables_that_cannot_be_used_are_one_line(pictures, rows, said):
    with pytest.raises(DataError, match=said):
        opened(write(pictures / "t.csv", ("file", "label"), *rows))


def test_a_name_of_several_files_is_told(pictures):
    (pictures / "more").mkdir()
    shutil.copy(pictures / "pictures" / "a.png", pictures / "more" / "a.png")
    with pytest.raises(
        DataError, match=r"names a, which is (more|pictures)/a.png and (more|pictures)/a.png; name the folder"
    ):
        opened(write(pictures / "t.csv", ("file", "label"), ("a", "cat"), ("b", "dog")))


def test_a_split_of_a_run_is_a_table(pictures):
    rows = [
        (f"pictures/{name}.png", "cat" if i % 2 else "dog", "", ("train", "val", "test")[i // 2])
        for i, name in enumerate("abcdef")
    ]
    source = opened(write(pictures / "splits.csv", ("id", "label", "group", "split"), *rows))
    assert list(source.examples.splits) == ["train", "train", "val", "val", "test", "test"]
