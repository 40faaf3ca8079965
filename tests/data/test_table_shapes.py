"""Shapes of tables that people have: one column per class, no header, parts in columns or tables, images in cells."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from table_tools import opened, write

from cnnjax import config as config_lib
from cnnjax.data import cache, find_inputs, preprocessing
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def encoded(level: int) -> bytes:
    """A grey PNG of 4 x 4."""
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (level,) * 3).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def place(tmp_path):
    """Files a.png ... f.png of levels 0, 10, ... 50 in a folder."""
    for i, name in enumerate("abcdef"):
        (tmp_path / f"{name}.png").write_bytes(encoded(10 * i))
    return tmp_path


def refused(path, **values) -> str:
    with pytest.raises(DataError) as error:
        opened(path, **values)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{path.parent}/", "")


def labels(source) -> str:
    """'a cat, b dog' of a.png and b.png."""
    return ", ".join(f"{e.id.removesuffix('.png')} {source.classes[e.label]}" for e in source.examples)


def splits(source) -> list[str]:
    return list(source.examples.splits)


HEAD = ("image", "MEL", "NV", "BCC")


def test_the_column_with_a_1_is_the_class(place):
    rows = [
        ("a", "1.0", "0.0", "0.0"),
        ("b", "0.0", "1.0", "0.0"),
        ("c", "0.0", "0.0", "1.0"),
        ("d", "0", "1", "0"),
        ("e", "0", "0", "0"),
    ]
    source = opened(write(place / "labels.csv", HEAD, *rows))
    assert labels(source) == "a MEL, b NV, c BCC, d NV" and source.classes == ("BCC", "MEL", "NV")
    assert source.notes == ("columns of labels.csv: 'image' is the file, the label is the column with a 1: MEL, NV, BCC",)
    assert source.warnings == (
        "1 row of labels.csv without a file or a label left out",
        "2 images without a row in labels.csv left out",
    )


def test_a_group_and_a_text_beside_columns_of_classes(place):
    head = ("image", "cat", "dog", "patient", "age", "is_test")
    rows = [("a", 1, 0, "P1", 30, 0), ("b", 0, 1, "P2", 40, 0), ("c", 0, 1, "P2", 40, 1)]
    source = opened(write(place / "labels.csv", head, *rows))
    assert labels(source) == "a cat, b dog, c dog" and splits(source) == ["train", "train", "test"]
    assert list(source.examples.groups) == ["P1", "P2", "P2"]
    assert source.notes == ("columns of labels.csv: 'image' is the file, the label is the column with a 1: cat, dog, 'patient' is the "
                            "group, the split is test where 'is_test' is 1, else train",)  # fmt: skip


def test_several_classes_in_a_row_are_refused_with_their_number(place):
    path = write(place / "labels.csv", HEAD, ("a", 1, 1, 0), ("b", 0, 1, 0), ("c", 0, 0, 0))
    assert refused(path) == (
        "labels.csv has a 1 in several of the columns MEL, NV, BCC in 1 of 3 rows; an image has one class here: leave out those rows, or "
        "name one column as the label with --config.data.columns=label=MEL"
    )
    assert labels(opened(path, columns=("label=MEL",))) == "a 1, b 0, c 0"


def test_a_class_may_be_called_train(place):
    head = ("image", "car", "bus", "train")
    source = opened(write(place / "labels.csv", head, ("a", 1, 0, 0), ("b", 0, 1, 0), ("c", 0, 0, 1)))
    assert labels(source) == "a car, b bus, c train" and splits(source) == [""] * 3
    source = opened(write(place / "labels.csv", head, ("a", 1, 0, 1), ("b", 0, 1, 1), ("c", 0, 1, 0)))
    assert labels(source) == "a car, b bus, c bus" and splits(source) == ["train", "train", "test"]


def test_a_table_without_a_header_has_positions(place):
    path = write(place / "labels.csv", ("a.png", "cat"), ("b.png", "dog"), ("c.png", "dog"))
    source = opened(path)
    assert labels(source) == "a cat, b dog, c dog"
    assert source.notes == ("labels.csv has no header: column 1 is the file, column 2 the label",)
    assert labels(opened(path, columns=("file=1", "label=2"))) == "a cat, b dog, c dog"
    assert [name for name, _ in find_inputs([str(path)]).stream()] == [str(place / f"{name}.png") for name in "abc"]
    assert labels(opened(write(path, ("cat", "a"), ("dog", "b")))) == "a cat, b dog", "stems, in the second column"
    assert "write KIND=NAME" in (said := refused(path, columns=("label=breed",))) and "has no header" in said


def test_a_table_without_a_header_may_have_more_columns(place):
    path = write(place / "labels.csv", ("a.png", "cat", "train"), ("gone.png", "dog", "train"), ("c.png", "dog", "test"))
    source = opened(path)
    assert labels(source) == "a cat, c dog" and splits(source) == ["train", "test"]
    assert source.notes == ("labels.csv has no header: column 1 is the file, column 2 the label, column 3 the split",)
    path = write(place / "labels.csv", ("7", "a.png", "cat"), ("8", "b.png", "dog"))
    assert refused(path) == (
        "labels.csv has no header and 3 columns, first 7, a.png, cat; name that of the label by its position with --config.data.columns=label=N"
    )
    assert labels(opened(path, columns=("label=3",))) == "a cat, b dog"
    path = write(place / "labels.csv", ("a.png", "cat"), ("b.png",))
    assert refused(path) == "labels.csv has 1 values in row 2, and 2 columns; fix that row"


def test_a_header_that_is_also_a_file_is_a_header(place):
    for name in ("image", "cat", "id"):
        (place / f"{name}.png").write_bytes(encoded(1))
    assert labels(opened(write(place / "labels.csv", ("image", "label"), ("a", "cat"), ("b", "dog")))) == "a cat, b dog"
    assert (
        labels(opened(write(place / "labels.csv", ("image_id", "cat", "dog"), ("a", 1, 0), ("b", 0, 1)))) == "a cat, b dog"
    )
    assert (
        labels(
            opened(write(place / "labels.csv", ("cat", "kind"), ("a", "x"), ("b", "y")), columns=("file=cat", "label=kind"))
        )
        == "a x, b y"
    )


@pytest.mark.parametrize(("head", "values", "expected", "said"), [
    (["is_train"], [("1",), ("0",), ("1",)], ["train", "test", "train"], "the split is train where 'is_train' is 1, else test"),
    (["is_valid"], [("True",), ("False",), ("False",)], ["val", "train", "train"], "the split is val where 'is_valid' is 1, else train"),
    (["Is Test"], [("0.0",), ("1.0",), ("0.0",)], ["train", "test", "train"], "the split is test where 'Is Test' is 1, else train"),
    (["train", "test"], [("1", "0"), ("0", "1"), ("0", "0")], ["train", "test", "val"],
     "the split is train where 'train' is 1, test where 'test' is 1, else val"),
    (["fold", "is_val"], [("0", "0"), ("1", "1"), ("2", "0")], ["train", "val", "train"], "the split is val where 'is_val' is 1, else train"),
])  # fmt: skip
def test_columns_of_0_and_1_may_be_the_split(place, head, values, expected, said):
    rows = [(name, kind, *value) for name, kind, value in zip("abc", ("cat", "dog", "dog"), values, strict=True)]
    source = opened(write(place / "labels.csv", ("image", "label", *head), *rows))
    assert splits(source) == expected
    assert source.notes == (f"columns of labels.csv: 'image' is the file, 'label' is the label, {said}",)
    assert ("'fold' of labels.csv has the values '0', '1', '2', and only train, val and test name parts: it is not used"
            in source.warnings) == ("fold" in head)  # fmt: skip


def test_flags_that_divide_nothing_or_twice_are_told(place):
    path = write(place / "labels.csv", ("image", "label", "valid"), ("a", "cat", 1), ("b", "dog", 1))
    assert splits(opened(path)) == ["", ""]
    assert "'valid' of labels.csv has one value only: it is not used as a split" in opened(path).warnings
    path = write(place / "labels.csv", ("image", "label", "is_train", "is_test"), ("a", "cat", 1, 1), ("b", "dog", 0, 0))
    assert refused(path) == (
        "labels.csv has a 1 in several of the columns is_train, is_test in 1 row; an image is in one part: fix them, or name a column with "
        "--config.data.columns=split=NAME"
    )
    assert splits(opened(path, columns=("split=is_train",))) == ["train", "test"]


def test_tables_of_parts_are_one_set(place):
    head = ("image", "label")
    train = write(place / "train.csv", head, ("a", "cat"), ("b", "dog"))
    write(place / "valid.csv", head[::-1], ("cat", "c"), ("dog", "d"))
    write(place / "test.csv", ("image",), ("e",), ("f",))
    write(place / "train_extra.csv", head, ("e", "bird"))
    source = opened(train)
    assert labels(source) == "a cat, b dog, c cat, d dog" and splits(source) == ["train", "train", "val", "val"]
    assert source.notes[1] == "the set brings its own parts: train.csv for train, valid.csv for val"
    assert source.warnings == (f"test.csv has no labels (label) and is left out; predict its images with --mode=predict --input={place}/test.csv",
                               "2 images without a row in train.csv and 1 more left out")  # fmt: skip


def test_a_table_of_another_part_is_evaluated_by_itself(place):
    """Evaluation takes all images of a set: those that a network learned from must not come along."""
    for name, file in (("train", "ab"), ("test", "cd")):
        write(place / f"{name}_labels.csv", ("image", "label"), (file[0], "cat"), (file[1], "dog"))
    source = opened(place / "test_labels.csv")
    assert labels(source) == "c cat, d dog" and splits(source) == ["", ""]
    assert (
        source.notes[1] == f"test_labels.csv is used by itself; --config.data.path={place}/train_labels.csv uses all parts"
    )


def test_a_split_column_or_other_columns_leave_tables_apart(place):
    write(place / "test.csv", ("image", "label", "split"), ("c", "cat", "test"))
    train = write(place / "train.csv", ("image", "label", "split"), ("a", "cat", "train"), ("b", "dog", "val"))
    assert splits(opened(train)) == ["train", "val"]
    write(place / "train.csv", ("image", "label"), ("a", "cat"), ("b", "dog"))
    write(place / "test.csv", ("x", "y"), ("c", "cat"))
    source = opened(train)
    assert splits(source) == ["", ""] and source.warnings[0] == "test.csv has other columns than train.csv and is left out"


def test_names_of_folders_of_parts_and_images_in_two_parts(place):
    for part in ("train", "test"):
        (place / part).mkdir()
        for name in "12":
            (place / part / f"{name}.png").write_bytes(encoded(3))
        write(place / f"{part}.csv", ("id", "label"), ("1", "cat"), ("2", "dog"), ("a", "dog"))
    source = opened(place / "train.csv")
    assert labels(source) == "a dog, test/1 cat, test/2 dog, train/1 cat, train/2 dog"
    assert splits(source) == ["train", "test", "test", "train", "train"]
    assert (
        "1 row of train.csv and 1 more with another part than a row above of the same image; that counts" in source.warnings
    )


def test_lost_zeros_are_found_again(tmp_path):
    for name in ("0007", "0010", "00011", "5", "05", "9", "x/0003"):
        (tmp_path / f"{name}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(encoded(1))
    rows = [(7, "cat"), (10, "dog"), ("011.jpg", "dog"), (5, "cat"), ("005", "dog"), (9, "cat"), (3, "dog"), (4, "dog")]
    source = opened(write(tmp_path / "labels.csv", ("id", "label"), *rows))
    assert labels(source) == "00011 dog, 0007 cat, 0010 dog, 05 dog, 5 cat, 9 cat, x/0003 dog"
    assert source.notes[1] == "5 files are named with other leading zeros, such as 7 for 0007.png"
    assert source.rejected == (("4", "named in labels.csv, but not there"),)
    (tmp_path / "00007.png").write_bytes(encoded(1))
    assert [name for name, _ in opened(tmp_path / "labels.csv").rejected] == ["7", "4"], "one of two is not chosen"


def test_the_nearest_column_is_named(place):
    path = write(place / "labels.csv", ("Image File", "Diagnosis", "n"), ("a", "cat", 1), ("b", "dog", 2))
    assert refused(path, columns=("file=Image File", "label=diagnosys")) == (
        "data.columns=label=diagnosys: labels.csv has no such column; the nearest is --config.data.columns=file=Image File,label=Diagnosis"
    )
    assert refused(path, columns=("lable=diagnosis",)).endswith("the nearest is --config.data.columns=label=Diagnosis")


def test_spaces_around_labels_do_not_count(place):
    source = opened(
        write(place / "labels.csv", (" image ", " label"), (" a ", " cat"), ("b", "cat "), ("c", "Cat "), ("d", "dog"))
    )
    assert labels(source) == "a cat, b cat, c Cat, d dog"
    assert (
        "'Cat' and 'cat' are different classes with almost the same name; give them one name if they are one"
        in source.warnings
    )


def cells(path, levels, names=None, names_of_classes=("cat", "dog"), **columns):
    """Writes a Parquet file as Hugging Face exports it."""
    names = names or [f"{level}.png" for level in levels]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array(
        [{"bytes": encoded(level), "path": name} for level, name in zip(levels, names, strict=True)], kind
    )
    features = {"image": {"_type": "Image"}, "label": {"names": list(names_of_classes), "_type": "ClassLabel"}}
    table = pyarrow.table({"image": images, "label": [level // 10 % 2 for level in levels], **columns})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=2)
    return path


def test_images_in_cells_are_read(tmp_path):
    source = opened(cells(tmp_path / "x.parquet", [50, 0, 40, 10, 30]))
    assert labels(source) == "0 cat, 10 dog, 30 dog, 40 cat, 50 dog"
    assert (
        source.notes == ("columns of x.parquet: 'image' holds the images, 'label' is the label",) and source.warnings == ()
    )
    config = config_lib.default()
    config.data.path, config.image.size = str(tmp_path), 4
    made = cache.build(source, preprocessing(config_lib.finish(config).image), tmp_path / "cache", Progress())
    np.testing.assert_array_equal(made.images[:, 1, 1, 0], [0, 10, 30, 40, 50])
    assert opened(tmp_path / "x.parquet").fingerprint == source.fingerprint
    with pytest.raises(
        DataError, match="holds images in the cells of 'image', and prediction takes files; write each cell to a file"
    ):
        find_inputs([str(tmp_path / "x.parquet")])


def test_cells_without_paths_are_named_by_their_rows(tmp_path):
    source = opened(cells(tmp_path / "x.parquet", [0, 10, 20], [None, "a", "b"]))
    assert [e.id for e in source.examples] == ["x/000000", "x/000001", "x/000002"]
    assert [e.id for e in opened(cells(tmp_path / "x.parquet", [0, 10], ["a", "a"])).examples] == ["x/000000", "x/000001"]
    parquet.write_table(pyarrow.table({"img_bytes": [encoded(0), encoded(1)], "label": ["a", "b"]}), tmp_path / "y.parquet")
    source = opened(tmp_path / "y.parquet", columns=("file=img_bytes",))
    assert [(e.id, source.classes[e.label]) for e in source.examples] == [("y/000000", "a"), ("y/000001", "b")]
    assert [reference.read() for _, reference in source.stream()] == [encoded(0), encoded(1)]


def test_shards_of_a_set_are_its_parts(tmp_path):
    first = cells(tmp_path / "train-00000-of-00002.parquet", [0, 10])
    cells(tmp_path / "train-00001-of-00002.parquet", [20, 30])
    cells(tmp_path / "test-00000-of-00001.parquet", [40, 50])
    source = opened(first)
    assert labels(source) == "0 cat, 10 dog, 20 cat, 30 dog, 40 cat, 50 dog"
    assert splits(source) == ["train"] * 4 + ["test"] * 2
    assert {source.examples[i].id: reference.read() for i, reference in source.stream()} == {
        f"{n}.png": encoded(n) for n in range(0, 60, 10)
    }
    assert source.notes[1] == ("the set brings its own parts: train-00000-of-00002.parquet and 1 more for train, "
                               "test-00000-of-00001.parquet for test")  # fmt: skip


def test_files_that_a_table_with_thumbnails_names_are_used(place):
    cells(place / "x.parquet", [0, 10], file=["a.png", "b.png"])
    source = opened(place / "x.parquet")
    assert labels(source) == "a cat, b dog" and source.notes == (
        "columns of x.parquet: 'file' is the file, 'label' is the label",
    )
    cells(place / "x.parquet", [0, 10], file=["gone.png", "too.png"])
    assert labels(opened(place / "x.parquet")) == "0 cat, 10 dog"


def test_two_columns_of_images_need_a_name(tmp_path):
    one, two = [encoded(0), encoded(1)], [encoded(2), encoded(3)]
    table = {"img_left": one, "img_right": two, "label": ["a", "b"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet") == (
        "x.parquet has the columns label, img_left, img_right, and none is known to be the file; name it with --config.data.columns=file=NAME"
    )
    source = opened(tmp_path / "x.parquet", columns=("file=img_right",))
    assert [reference.read() for _, reference in source.stream()] == two
    parquet.write_table(pyarrow.table({**table, "file": ["gone", "too"]}), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").startswith("of 2 files that x.parquet names, such as 'gone', none is in")


def test_cells_without_a_label_are_left_out_and_counted(tmp_path):
    path = cells(tmp_path / "x.parquet", [0, 10, 20])
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "label", pyarrow.array([0, 1, -1])), path)
    source = opened(path)
    assert labels(source) == "0 cat, 10 dog" and source.warnings == ("1 row of x.parquet without a label left out",)


@pytest.mark.parametrize(("text", "said"), [
    ("", "labels.csv is empty; a table of labels has a row for each image, with its file and its class"),
    ("image,label\n", "labels.csv has no row with a file and a label; a table of labels has a row for each image"),
])  # fmt: skip
def test_tables_without_rows_are_refused(place, text, said):
    (place / "labels.csv").write_text(text)
    assert refused(place / "labels.csv") == said


def test_a_quote_that_is_not_closed_is_refused(place):
    (place / "labels.csv").write_text('image,label\na,"cat\n' + "b,dog\n" * 30_000)
    assert 'look for a quote (") that is not closed' in refused(place / "labels.csv")
