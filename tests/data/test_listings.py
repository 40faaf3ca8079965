"""Folders and archives of them list the same files, odd and damaged ones included."""

import gc
import io
import os
import shutil
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from source_tools import contents, listed, opened, pack, tar

from cnnjax import config as config_lib
from cnnjax.data import decoding, splits, zip_files
from cnnjax.errors import DataError


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
    walk = os.fwalk

    def reversed_walk(*args, **kwargs):
        for directory, names, files, place in walk(*args, **kwargs):
            names.sort(reverse=True)
            yield directory, names, sorted(files, reverse=True), place

    monkeypatch.setattr(os, "fwalk", reversed_walk)
    after = opened(cell_folder)
    assert list(after.examples) == list(before.examples) and after.fingerprint == before.fingerprint


def test_the_fingerprint_changes_with_the_content(make_folder, tmp_path):
    folder = make_folder(tmp_path / "a", per_class=3)
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    file = next(folder.rglob("*.png"))
    file.write_bytes(file.read_bytes() + b"more")
    assert opened(folder).fingerprint != before


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


def test_links_in_a_folder(make_folder, tmp_path):
    folder = make_folder(tmp_path / "real", per_class=3)
    (folder / "Parasitized" / "loop").symlink_to(folder)
    (folder / "Parasitized" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    source = opened(folder)
    assert len(source.examples) == 6
    assert source.rejected == (("Parasitized/broken.png", "cannot be read (No such file or directory)"),)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz", "x.tar.xz"])
def test_a_cut_archive_is_called_so_wherever_it_was_cut(tmp_path, cell_folder, name):
    whole = pack(cell_folder, tmp_path / name)
    data = whole.read_bytes()
    for size in (0, 300, len(data) // 2):
        whole.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"x\.\S+ (is .*damaged \(|ends early).*get it again") as error:
            opened(whole)
        assert "\n" not in str(error.value)


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
    walk = os.fwalk

    def in_order(*args, **kwargs):
        for directory, names, files, place in walk(*args, **kwargs):
            names.sort(reverse=reverse)
            yield directory, names, files, place

    monkeypatch.setattr(os, "fwalk", in_order)
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
            decoding.decode_chunk([reference for _, reference in source.stream()], (8, 8), "bilinear")
        except DataError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
    assert refused > 3


@pytest.mark.parametrize("part", [100, zip_files.PART])
def test_zip_of_several_thousand_members_with_something_in_front_of_it_is_whole(tmp_path, monkeypatch, part):
    monkeypatch.setattr(zip_files, "PART", part)
    members = {f"{'ab'[i % 2]}/{7919 * i % 4096:04}.png": b"%d" % i for i in range(4096)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    plain, data = listed(tmp_path / "x.zip"), (tmp_path / "x.zip").read_bytes()
    assert contents(plain) == members
    behind = tmp_path / "x.zip"
    zip_files._opened.cache_clear()
    behind.write_bytes(b"#!/bin/sh\n" * 100 + data)
    behind = listed(behind)
    assert contents(behind) == members
    assert [e.id for e in plain.examples] == sorted(members) and plain.fingerprint == behind.fingerprint


def test_member_with_a_password_is_named_as_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, b"1")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # of the first member
    (tmp_path / "x.zip").write_bytes(data)
    _, facts = decoding.decode_chunk([reference for _, reference in listed(tmp_path / "x.zip").stream()], (8, 8), "bilinear")
    assert facts[0]["reason"] == "cannot be read (File 'a/1.png' is encrypted, password required for extraction)"


@pytest.mark.slow
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
