"""Sources list the same examples for folders and archives of them, odd and damaged ones included."""

import gc
import io
import os
import shutil
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import cache, listings, sources, splits
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def contents(source):
    """{id: bytes}; every example must come once."""
    found = [(source.examples[i].id, reference.read()) for i, reference in source.stream()]
    assert len(found) == len(source.examples) == len(dict(found))
    return dict(found)


def section(path, **values):
    config = config_lib.default()
    config.data.path = str(path)
    for name, value in values.items():
        config.data[name] = value
    return config.data


def opened(path, **values):
    return sources.open_source(section(path, **values), Progress())


def pack(folder, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*"), reverse=True):
                archive.write(file, f"wrapper/{file.relative_to(folder)}")
    else:
        with tarfile.open(path, {".tar": "w", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]) as archive:
            archive.add(folder, "wrapper")
    return path


@pytest.mark.parametrize("name", ["cells.zip", "cells.tar", "cells.tgz", "cells.tar.xz", "no-suffix-here.zip"])
def test_an_archive_is_the_folder_it_was_made_of(cell_folder, tmp_path, name):
    archive = pack(cell_folder, tmp_path / name)
    if name.startswith("no-suffix"):
        archive = archive.rename(tmp_path / "archive")
    folder, packed = opened(cell_folder, group=r"^C\d+"), opened(archive, group=r"^C\d+")
    assert packed.classes == folder.classes == ("Parasitized", "Uninfected")
    assert list(packed.examples) == list(folder.examples)
    assert contents(packed) == contents(folder)
    assert {e.group for e in packed.examples} == {f"C{i}" for i in range(1, 13)}


def test_the_order_of_the_file_system_does_not_matter(cell_folder, monkeypatch):
    before = opened(cell_folder)
    walk = os.walk

    def reversed_walk(*args, **kwargs):
        for directory, names, files in walk(*args, **kwargs):
            names.sort(reverse=True)
            yield directory, names, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    after = opened(cell_folder)
    assert list(after.examples) == list(before.examples) and after.fingerprint == before.fingerprint


def test_the_fingerprint_changes_with_the_content(make_folder, tmp_path):
    folder = make_folder(tmp_path / "a", per_class=3)
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    file = next(folder.rglob("*.png"))
    file.write_bytes(file.read_bytes() + b"more")
    assert opened(folder).fingerprint != before


def test_hidden_files_are_ignored_and_names_may_be_of_any_script(make_folder, tmp_path):
    folder = make_folder(tmp_path / "photos", classes=("Gänseblümchen", "薔薇"), per_class=3)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "x.png").write_bytes(b"x")
    (folder / "薔薇" / ".DS_Store").write_bytes(b"x")
    source = opened(folder)
    assert source.classes == ("Gänseblümchen", "薔薇") and len(source.examples) == 6
    assert list(opened(pack(folder, tmp_path / "p.zip")).examples) == list(source.examples)


def test_members_that_point_outside_are_rejected_and_written_nowhere(cell_folder, tmp_path):
    data = next(cell_folder.rglob("*.png")).read_bytes()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png"):
            archive.writestr(name, data)
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name in ("a/1.png", "b/1.png", "a/../../evil.png", "/etc/evil.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (("a/link.png", tarfile.SYMTYPE), ("a/hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    for name, rejected in (("evil.zip", 4), ("evil.tar", 4)):
        source = opened(tmp_path / name)
        assert [e.id for e in source.examples] == ["a/1.png", "b/1.png"]
        assert len(source.rejected) == rejected
        assert all("outside" in reason or "link" in reason for _, reason in source.rejected)
        contents(source)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("known", [None, 0, 4, 5, 6, 100])
def test_a_file_is_read_whole_whatever_size_it_had(tmp_path, known):
    (tmp_path / "file").write_bytes(b"image")
    assert listings.FileReference(str(tmp_path / "file"), known).read() == b"image"


@pytest.mark.parametrize(
    "name", [".a.png", ".a/c.png", "__MACOSX/c.png", "..a.png", "a.b/c.png", "__MACOSX.png", "a__MACOSX.png"]
)
def test_what_is_hidden(tmp_path, name):
    for each in ("x/a.png", "y/b.png", f"y/{name}"):
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_bytes(b"image")
    assert (f"y/{name}" in contents(opened(tmp_path))) == (name not in (".a.png", ".a/c.png", "__MACOSX/c.png"))


def test_links_in_a_folder(make_folder, tmp_path):
    folder = make_folder(tmp_path / "real", per_class=3)
    (folder / "Parasitized" / "loop").symlink_to(folder)
    (folder / "Parasitized" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    source = opened(folder)
    assert len(source.examples) == 6
    assert source.rejected == (("Parasitized/broken.png", "cannot be read (No such file or directory)"),)


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


def damaged_zip(path, cell_folder):
    data = pack(cell_folder, path / "x.zip").read_bytes()
    (path / "damaged.zip").write_bytes(data[: len(data) // 2])
    return path / "damaged.zip"


def one_class(path, cell_folder):
    (path / "one" / "cats").mkdir(parents=True)
    (path / "one" / "cats" / "1.png").write_bytes(b"x")
    return path / "one"


def empty(path, cell_folder):
    for name in "ab":
        (path / "empty" / name).mkdir(parents=True)
    return path / "empty"


def text(path, cell_folder):
    (path / "text.zip").write_text("this is text")
    return path / "text.zip"


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz", "x.tar.xz"])
def test_a_cut_archive_is_called_so_wherever_it_was_cut(tmp_path, cell_folder, name):
    whole = pack(cell_folder, tmp_path / name)
    data = whole.read_bytes()
    for size in (0, 300, len(data) // 2):
        whole.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"x\.\S+ is .*damaged \(.*get it again") as error:
            opened(whole)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, c: p / "missing", "no such folder or archive: .*--config.data.path"),
        (damaged_zip, "cut or damaged .*get it again"),
        (one_class, "one class folder only .cats.*two or more"),
        (empty, "no files in class folders.*two or more"),
        (text, "neither a folder nor an archive"),
    ],
)
def test_what_cannot_be_a_source_is_said_in_one_line(make, message, tmp_path, cell_folder):
    with pytest.raises(DataError, match=message) as error:
        opened(make(tmp_path, cell_folder))
    assert "\n" not in str(error.value)


def test_a_class_that_has_no_folder_is_named(cell_folder):
    with pytest.raises(DataError, match=r"no folder for cats; it has Parasitized, Uninfected"):
        opened(cell_folder, classes=("cats", "Uninfected"))


def test_digits_and_demo():
    digits = sources.open_source(section("", source="digits"), Progress())
    assert len(digits.examples) == 1797 and digits.classes == tuple("0123456789")
    index, reference = next(iter(digits.stream()))
    assert reference.read().shape == (8, 8) and digits.examples[index].id.startswith(f"{digits.examples[index].label}/")
    demo = sources.open_source(section("", source="demo", group=r"^C\d+", demo_cells=100), Progress())
    assert len(demo.examples) == 100 and len({e.group for e in demo.examples}) == 40
    assert next(iter(demo.stream()))[1].read().startswith(b"\x89PNG")


def test_the_real_archives(shared_data):
    cells = opened(shared_data / "cell_images.zip", group=r"^C\d+")
    assert cells.classes == ("Parasitized", "Uninfected") and len(cells.examples) == 7438  # without two Thumbs.db
    assert len({e.group for e in cells.examples} - {""}) == 52
    assert len(opened(shared_data / "flower_photos.tgz").examples) == 2560


@pytest.mark.parametrize("source, has", [("demo", "Parasitized, Uninfected"), ("digits", "0, 1, 2")])
def test_classes_that_a_source_without_folders_does_not_have_are_refused(source, has):
    with pytest.raises(DataError, match=f"data.classes=Parasitized, but .* always has {has}.*--config.data.classes="):
        opened("", source=source, classes=("Parasitized",))


def listed(path, **values):
    config = config_lib.override(
        config_lib.default(), {"data.path": str(path), **{f"data.{k}": v for k, v in values.items()}}
    )
    return sources.open_source(config.data, Progress())


def tar(path, members, mode="w", **facts):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in facts.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_member_that_a_tar_holds_twice_is_one_example_the_last_one(tmp_path, mode):
    # `tar --append` and `--update` do that.
    members = [("a/1.png", b"old"), ("a/2.png", b"2"), ("b/1.png", b"3"), ("a/1.png", b"newer")]
    assert contents(listed(tar(tmp_path / "x.tar", members, mode))) == {
        "a/1.png": b"newer",
        "a/2.png": b"2",
        "b/1.png": b"3",
    }


def test_backslashes_between_the_folders_of_a_zip_are_taken_for_slashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cells\\", b"")
        for name, data in ((r"cells\a\1.png", b"1"), (r"cells\b\2.png", b"2"), (r"..\c\3.png", b"3")):
            archive.writestr(name, data)
    source = listed(tmp_path / "x.zip")
    assert source.classes == ("a", "b") and contents(source) == {"a/1.png": b"1", "b/2.png": b"2"}
    assert source.rejected == (("../c/3.png", "points outside the archive"),)
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:  # a name of some other system
        for name in ("a/1.png", r"b/2\3.png"):
            archive.writestr(name, b"")
    assert list(contents(listed(tmp_path / "y.zip"))) == ["a/1.png", r"b/2\3.png"]


def test_a_class_within_the_name_or_the_path_is_found_by_an_expression(tmp_path):
    for name in ("train/cat.1.png", "train/dog.1.png", "train/dog.2.png", "test/9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = listed(tmp_path, label="^[a-z]+", group=r"\d+")
    assert source.classes == ("cat", "dog") and list(source.examples.splits) == ["train"] * 3
    assert [(e.id, e.label, e.group) for e in source.examples] == [
        ("train/cat.1.png", 0, "1"), ("train/dog.1.png", 1, "1"), ("train/dog.2.png", 1, "2")]  # fmt: skip
    assert contents(source)["train/dog.2.png"] == b"train/dog.2.png"
    assert source.warnings == ("1 file left out, such as test/9.png, in which data.label matches nothing",)
    with pytest.raises(DataError, match=r"finds no class in the names of .*; '.*png' has no match; a classifier needs two"):
        listed(tmp_path, label="horse")


def test_class_folders_below_patients_are_found_by_an_expression(tmp_path):
    for name in ("P1/sick/1.png", "P1/well/1.png", "P2/well/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [(e.id, e.label) for e in listed(tmp_path, label="sick|well").examples] == [
        ("P1/sick/1.png", 0), ("P1/well/1.png", 1), ("P2/well/1.png", 1)]  # fmt: skip


class OfWindows(zipfile.ZipInfo):
    """A member whose name is in the code page of a system, without saying so."""

    page = "cp949"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.page), self.flag_bits & ~0x800


@pytest.mark.parametrize(
    ("page", "names"), [("cp949", ("고양이", "강아지")), ("cp932", ("ねこ", "イヌ")), ("utf-8", ("chat né", "übrig"))]
)
def test_names_of_a_zip_in_another_code_page_are_read_or_explained(tmp_path, monkeypatch, page, names):
    monkeypatch.setattr(OfWindows, "page", page)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(OfWindows(f"{name}/1.png"), name)
    ids = {f"{name}/1.png": name.encode() for name in names}
    source = listed(tmp_path / "x.zip")
    if page == "utf-8":
        assert contents(source) == ids and source.warnings == ()
    else:
        (line,) = source.warnings
        assert f"--config.data.names={page} reads '{names[0]}/1.png'" in line and len(contents(source)) == 2
        assert contents(listed(tmp_path / "x.zip", names=page)) == ids


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_a_zip_holds_twice_is_one_example(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in (("a/1.png", b"old"), ("b/1.png", b"3"), ("a/1.png", b"newer")):
            archive.writestr(name, data)
    assert contents(listed(tmp_path / "x.zip")) == {"a/1.png": b"newer", "b/1.png": b"3"}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_leading_dot_of_a_tar_is_no_part_of_the_names(tmp_path, mode):
    path = tar(tmp_path / "x.tar", [("./top/a/1.png", b"1"), ("./top/b/1.png", b"2"), ("./top/a/.hidden.png", b"3")], mode)
    assert contents(listed(path)) == {"a/1.png": b"1", "b/1.png": b"2"}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_fingerprint_of_a_tar_changes_with_content_of_the_same_size_and_time(tmp_path, mode):
    # Reproducible archives give all members one time.
    found = set()
    for data in (b"123", b"456"):
        path = tar(tmp_path / "x.tar", [("a/1.png", data), ("b/1.png", b"2")], mode, mtime=0)
        os.utime(path, ns=(1, int(data)))
        found.add(listed(path).fingerprint)
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["folder", "tar", "tgz"])
def test_name_that_is_not_unicode_is_an_example_that_can_be_written_down(tmp_path, kind):
    raw = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    try:
        (tmp_path / "data" / "a" / raw).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (tmp_path / "data" / "b" / "2.png").write_bytes(b"2")
    path = tmp_path / "data"
    if kind != "folder":
        path = tar(tmp_path / "x", [(f"a/{raw}", b"1"), ("b/2.png", b"2")], "w" if kind == "tar" else "w:gz")
    source = listed(path)
    assert contents(source) == {"a/caf\\xe9.png": b"1", "b/2.png": b"2"}
    splits.write(tmp_path / "splits.csv", source.examples, ["train", "val"], source.classes)
    assert [row[0] for row in splits.read(tmp_path / "splits.csv")] == [e.id for e in source.examples]
    split = config_lib.override(config_lib.default(), {"split.val": 0.0, "split.test": 0.0}).split
    assert splits.assign(source.examples, source.classes, split) == ["train", "train"]


@pytest.mark.parametrize("reverse", [False, True])
def test_folder_that_is_a_link_to_another_counts_in_both_places(tmp_path, monkeypatch, reverse):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "c").symlink_to(tmp_path / "a")
    walk = os.walk

    def in_order(*args, **kwargs):
        for directory, names, files in walk(*args, **kwargs):
            names.sort(reverse=reverse)
            yield directory, names, files

    monkeypatch.setattr(os, "walk", in_order)
    assert contents(listed(tmp_path)) == {"a/a.png": b"a", "b/b.png": b"b", "c/a.png": b"a"}


def test_links_that_go_in_circles_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    source = listed(tmp_path)
    assert {"a/1.png", "b/1.png"} <= contents(source).keys() and len(source.examples) < 10


def test_fifo_and_socket_are_rejected_and_never_opened(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"1")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    source = listed(tmp_path)
    assert source.rejected == (("a/pipe.png", "not a regular file"),)
    assert contents(source).keys() == {"a/1.png", "b/1.png"}


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


def test_an_expression_that_finds_no_group_is_told(make_folder, tmp_path):
    folder = make_folder(tmp_path / "x", per_class=3)
    (line,) = listed(folder, group="^Patient").warnings
    assert line.startswith("data.group=^Patient matches in no name, such as 'Parasitized/C") and line.endswith(
        "there are no groups"
    )


def test_classes_with_almost_the_same_name_are_named(tmp_path):
    for name in ("Cat", "cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert listed(tmp_path).warnings == (
        "'Cat' and 'cat' are different classes with almost the same name; give them one name if they are one",
    )


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


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.zip"])
def test_damage_anywhere_in_an_archive_is_one_line_or_fails_single_images(make_folder, tmp_path, name):
    folder = make_folder(tmp_path / "folder", per_class=4)
    whole = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*.png")):
                archive.write(file, file.relative_to(folder))
    else:
        mode = {"tar": "w", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[name.rpartition(".")[2]]
        tar(whole, [(str(f.relative_to(folder)), f.read_bytes()) for f in sorted(folder.rglob("*.png"))], mode)
    data = whole.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(30):
        broken = bytearray(data)
        if i % 3 == 0:
            del broken[int(rng.integers(1, len(data))) :]
        else:
            for at in rng.integers(0, len(data), 12):
                broken[at] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{i}-{name}"
        path.write_bytes(bytes(broken))
        try:
            source = listed(path)
            cache.decode_chunk([reference for _, reference in source.stream()], 8, "bilinear")
        except DataError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
    assert refused > 3


def test_group_of_the_demo_is_the_bracket_too():
    with_bracket = listed("", source="demo", demo_cells=60, group=r"^C(\d+)P")
    assert all(example.group.isdigit() for example in with_bracket.examples)


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


@pytest.mark.parametrize("paged", [0, listings.PAGED])
def test_zip_of_several_thousand_members_with_something_in_front_of_it_is_whole(tmp_path, monkeypatch, paged):
    monkeypatch.setattr(listings, "PAGED", paged)
    members = {f"{'ab'[i % 2]}/{7919 * i % 4096:04}.png": b"%d" % i for i in range(4096)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    plain = listed(tmp_path / "x.zip")
    (tmp_path / "y.zip").write_bytes(b"#!/bin/sh\n" * 100 + (tmp_path / "x.zip").read_bytes())
    behind = listed(tmp_path / "y.zip")
    assert contents(plain) == contents(behind) == members
    assert [e.id for e in plain.examples] == sorted(members) and plain.fingerprint == behind.fingerprint


def test_member_with_a_password_is_named_as_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, b"1")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # of the first member
    (tmp_path / "x.zip").write_bytes(data)
    _, facts = cache.decode_chunk([reference for _, reference in listed(tmp_path / "x.zip").stream()], 8, "bilinear")
    assert facts[0]["reason"] == "cannot be read (File 'a/1.png' is encrypted, password required for extraction)"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_listing_holds_a_few_bytes_of_each_file(tmp_path, kind):
    def held(count):
        for i in range(count):
            path = tmp_path / "x" / "ab"[i % 2] / f"a_name_of_some_length_{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"1")
        where = tmp_path / "x"
        if kind != "folder":
            where = Path(shutil.make_archive(str(tmp_path / f"{count}"), kind, where))
        tracemalloc.start()
        try:
            source = listed(where)
            gc.collect()  # tuples that Python keeps for later use
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(source.examples) == count
        return taken

    held(4)  # what is imported and cached the first time
    few, many = held(1000), held(4000)
    assert many - few < 20 * 3000  # names, labels, groups, sizes and times are in files; a ZipInfo takes 500 bytes
