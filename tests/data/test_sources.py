"""A folder and archives of it are the same source; nothing in an archive reaches out of it."""

import io
import os
import tarfile
import zipfile

import pytest

from cnnjax import config as config_lib
from cnnjax.data import listings, sources
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def section(path, **values):
    config = config_lib.default()
    config.data.path = str(path)
    for name, value in values.items():
        config.data[name] = value
    return config.data


def opened(path, **values):
    return sources.open_source(section(path, **values), Progress())


def contents(source):
    return {source.examples[i].id: reference.read() for i, reference in source.stream()}


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
    assert cells.classes == ("Parasitized", "Uninfected") and len(cells.examples) == 7438 + 2
    assert len({e.group for e in cells.examples} - {""}) == 52
    assert len(opened(shared_data / "flower_photos.tgz").examples) == 2560


@pytest.mark.parametrize("source, has", [("demo", "Parasitized, Uninfected"), ("digits", "0, 1, 2")])
def test_classes_that_a_source_without_folders_does_not_have_are_refused(source, has):
    with pytest.raises(DataError, match=f"data.classes=Parasitized, but .* always has {has}.*--config.data.classes="):
        opened("", source=source, classes=("Parasitized",))
