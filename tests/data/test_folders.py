"""The names of a listing become examples: classes, groups and splits, and files and folders that are left out."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from source_tools import contents, listed, opened, pack

from cnnjax.errors import DataError


def test_hidden_files_are_ignored_and_names_may_be_of_any_script(make_folder, tmp_path):
    folder = make_folder(tmp_path / "photos", classes=("Gänseblümchen", "薔薇"), per_class=3)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "x.png").write_bytes(b"x")
    (folder / "薔薇" / ".DS_Store").write_bytes(b"x")
    source = opened(folder)
    assert source.classes == ("Gänseblümchen", "薔薇") and len(source.examples) == 6
    assert list(opened(pack(folder, tmp_path / "p.zip")).examples) == list(source.examples)


@pytest.mark.parametrize(
    "name", [".a.png", ".a/c.png", "__MACOSX/c.png", "..a.png", "a.b/c.png", "__MACOSX.png", "a__MACOSX.png"]
)
def test_what_is_hidden(tmp_path, name):
    for each in ("x/a.png", "y/b.png", f"y/{name}"):
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_bytes(b"image")
    assert (f"y/{name}" in contents(opened(tmp_path))) == (name not in (".a.png", ".a/c.png", "__MACOSX/c.png"))


def test_class_order_can_be_set(cell_folder):
    source = opened(cell_folder, classes=("Uninfected", "Parasitized"))
    assert source.classes == ("Uninfected", "Parasitized")
    assert all((e.label == 0) == e.id.startswith("Uninfected") for e in source.examples)


def test_folders_named_as_splits_are_splits(make_folder, tmp_path):
    for split in ("train", "validation", "test"):
        make_folder(tmp_path / split, per_class=2)
    source = opened(tmp_path)
    assert source.classes == ("Parasitized", "Uninfected")
    assert {e.id.split("/")[0]: e.split for e in source.examples} == {"train": "train", "validation": "val", "test": "test"}


def test_the_group_is_what_the_expression_or_its_bracket_matches(cell_folder):
    assert {e.group for e in opened(cell_folder, group=r"^C(\d+)P").examples} == {str(i) for i in range(1, 13)}
    assert {e.group for e in opened(cell_folder, group="nothing").examples} == {""}


def test_a_class_that_has_no_folder_is_named(cell_folder):
    with pytest.raises(DataError, match=r"no folder for cats; it has Parasitized, Uninfected"):
        opened(cell_folder, classes=("cats", "Uninfected"))


def test_a_class_within_the_name_or_the_path_is_found_by_an_expression(tmp_path):
    for name in ("train/cat.1.png", "train/dog.1.png", "train/dog.2.png", "test/9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = listed(tmp_path, label="^[a-z]+", group=r"\d+")
    assert source.classes == ("cat", "dog") and list(source.examples.splits) == ["train"] * 3
    assert [(e.id, e.label, e.group) for e in source.examples] == [
        ("train/cat.1.png", 0, "1"), ("train/dog.1.png", 1, "1"), ("train/dog.2.png", 1, "2")]  # fmt: skip
    assert contents(source)["train/dog.2.png"] == b"train/dog.2.png"
    assert source.warnings == ("1 file left out, such as test/9.png, for which data.label=^[a-z]+ finds no class",)
    with pytest.raises(DataError, match=r"finds no class in the names of .*; '.*png' has no match; a classifier needs two"):
        listed(tmp_path, label="horse")


def test_class_folders_below_patients_are_found_by_an_expression(tmp_path):
    for name in ("P1/sick/1.png", "P1/well/1.png", "P2/well/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [(e.id, e.label) for e in listed(tmp_path, label="sick|well").examples] == [
        ("P1/sick/1.png", 0), ("P1/well/1.png", 1), ("P2/well/1.png", 1)]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_of_systems_are_silent_others_and_empty_folders_are_named(make_folder, tmp_path, kind):
    folder = make_folder(tmp_path / "x", per_class=3)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "boxes.XML", "clip.mp4", "second.txt"):
        (folder / "Parasitized" / name).write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "thumb.png").write_bytes(b"x")
    (folder / "Empty").mkdir()
    (folder / "Words").mkdir()
    (folder / "Words" / "labels.csv").touch()
    (folder / "README").write_text("of the set")
    path = folder if kind == "folder" else Path(shutil.make_archive(str(tmp_path / "packed"), kind, folder))
    source = listed(path)
    assert source.classes == ("Parasitized", "Uninfected") and len(source.examples) == 6 and source.rejected == ()
    assert source.notes == () and source.warnings == (
        "1 file beside the folders left out",
        "no pictures in Empty/, Words/, which are left out",
        "5 files are not pictures, by name, and left out (2 .txt, 1 .csv, 1 .mp4, 1 .xml)",
        *(
            [f"Words/labels.csv may be a table of labels; --config.data.path={folder}/Words/labels.csv uses it"]
            if kind == "folder"
            else []
        ),
    )


def test_a_table_beside_pictures_is_named_where_there_are_no_classes(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("train/1.png", "labels.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"; labels.csv may be a table of labels; --config.data.path=.*/labels.csv uses it"):
        listed(tmp_path)


def test_a_class_without_pictures_is_named_where_one_class_is_left(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "cat" / "1.png").touch()
    with pytest.raises(DataError, match=r"one class folder only \(cat\), and no pictures in dog/; a classifier needs"):
        listed(tmp_path)


def test_parts_without_class_folders_are_refused_with_what_to_type(tmp_path):
    for name in ("Training", "Testing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    with pytest.raises(DataError, match="name parts of a set, .*--config.data.classes=Testing,Training"):
        listed(tmp_path)
    assert listed(tmp_path, classes=("Testing", "Training")).classes == ("Testing", "Training")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_parts_that_a_set_brings_become_splits(make_folder, tmp_path, kind):
    for part, count in (("seg_train/seg_train", 8), ("seg_test", 4)):
        make_folder(tmp_path / "x" / part, per_class=count)
    (tmp_path / "x" / "seg_pred").mkdir()
    (tmp_path / "x" / "seg_pred" / "1.png").touch()
    path = tmp_path / "x" if kind == "folder" else Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "x"))
    source = listed(path)
    assert source.notes == ("the set brings its own parts: seg_train/ for train, seg_test/ for test",)
    assert source.warnings == ("1 file in seg_pred/ is in no class folder of a part and left out",)
    assert Counter(source.examples.splits) == {"train": 16, "test": 8}
    assert source.examples[0].id.startswith("seg_test/Parasitized/")


def test_group_is_searched_below_the_class_folder(tmp_path):
    for name in ("a/C1/1.png", "a/C2/1.png", "b/C1/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [e.group for e in listed(tmp_path, group="^[^/]+").examples] == ["C1", "C2", "C1"]


def test_folders_named_by_numbers_can_be_put_in_order(tmp_path):
    for name in "0127":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
    assert listed(tmp_path, classes="7,1").classes == ("7", "1")
    with pytest.raises(DataError, match="no folder for 9"):
        listed(tmp_path, classes="9,1")
