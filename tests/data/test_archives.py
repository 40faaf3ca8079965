"""Archives and files of unknown origin: bounded, said, and read as far as they are whole."""

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from source_tools import contents, listed

from cnnjax.data import DataReference, FileReference, decoding, find_inputs, listings, tar_files
from cnnjax.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = [("a/1.png", b"1" * 700), ("b/2.png", b"2" * 1400), ("b/3.png", b"3" * 2100)]
END = bytes(1024)
OPEN = {"tar": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


def header(name, size, type=b"0"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name, data, type=b"0"):
    return header(name, len(data), type) + data + bytes(-len(data) % 512)


def written(path, data):
    with OPEN[path.suffix[1:]](path, "wb") as file:
        file.write(data)
    return path


def sparse(name, size):
    """A member of GNU tar that is `size` bytes of which 5 are there, with a map that goes on in another block."""
    block = bytearray(header(name, 5, b"S"))
    block[386:410] = b"%011o\0%011o\0" % (0, 5)
    block[482:495] = b"\1%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512) + b"image".ljust(512, b"\0")


@pytest.mark.parametrize("kind", ["tar", "gz", "bz2", "xz"])
def test_sparse_members_are_named_and_the_others_are_read(tmp_path, kind):
    facts = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n29 GNU.sparse.name=a/pax.png\n"
    data = (
        member("a/1.png", b"1")
        + sparse("a/gnu.png", 2**32)
        + member("x", facts, b"x")
        + member("a/0.png", b"1\n0\n5\nimage")
    )
    source = listed(written(tmp_path / f"x.{kind}", data + member("b/2.png", b"2") + END))
    reason = "a sparse member inside an archive"
    assert source.rejected == (("a/gnu.png", reason), ("a/pax.png", reason))
    assert contents(source) == {"a/1.png": b"1", "b/2.png": b"2"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "gz"])
def test_a_file_of_more_bytes_than_the_limit_is_named_and_the_others_are_read(tmp_path, monkeypatch, kind):
    for module in (listings, tar_files):
        monkeypatch.setattr(module, "MAX_BYTES", 2000)
    if kind == "folder":
        path = tmp_path / "x"
        for name, data in MEMBERS:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in MEMBERS:
                archive.writestr(name, data)
    else:
        path = written(tmp_path / f"x.{kind}", b"".join(member(*one) for one in MEMBERS) + END)
    source = listed(path)
    assert source.rejected == (("b/3.png", "2,100 bytes, more than 2,000"),)
    assert contents(source) == dict(MEMBERS[:2])


def test_a_file_that_grows_or_shrinks_while_it_is_read_ends(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"image")
    reference, facts = FileReference(str(path)), os.fstat
    assert reference.read() == b"image"
    shorter = os.stat_result((*os.stat(path)[:6], 9, *os.stat(path)[7:]))
    monkeypatch.setattr(os, "fstat", lambda file: shorter)
    with pytest.raises(ValueError, match="became shorter while it was read, 5 of 9 bytes"):
        reference.read()
    monkeypatch.setattr(os, "fstat", facts)
    monkeypatch.setattr(listings, "MAX_BYTES", 1000)
    monkeypatch.setattr(os, "read", lambda file, count: b"x" * 300)
    with pytest.raises(ValueError, match="more than 1,000"):
        reference.read()


def test_pipe_socket_and_device_are_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    for path in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero"):
        with pytest.raises((ValueError, OSError), match="not a regular file|No such device"):
            FileReference(str(path)).read()
    (tmp_path / "list.csv").write_text("file\npipe.png\n")
    ((_, reference),) = find_inputs([str(tmp_path / "list.csv")]).stream()
    with pytest.raises(ValueError, match="not a regular file"):
        reference.read()
    with pytest.raises(DataError, match="no such file"):
        find_inputs([str(tmp_path / "pipe.png")])
    with pytest.raises(DataError, match="neither a folder nor a file"):
        listed(tmp_path / "pipe.png")


def test_a_pipe_that_a_table_of_labels_names_is_left_out_with_its_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "t.csv").write_text("file,label\na.png,x\nb.png,y\npipe.png,x\n")
    assert listed(tmp_path / "t.csv").rejected == (("pipe.png", "not a regular file"),)


# The members begin at 0, 1,536 and 3,584; the last one's data are 4,096 to 6,196, its padding ends at 6,656.
CUTS = {200: 0, 700: 0, 1400: 1, 1535: 1, 1600: 1, 2100: 1, 3500: 2, 5000: 2, 6196: 3, 6655: 3}


@pytest.mark.parametrize(("size", "whole"), CUTS.items())
def test_a_tar_that_is_cut_is_refused_and_its_whole_files_are_used_where_that_is_asked_for(tmp_path, size, whole):
    data = member("b/0.png", b"0" * 100) + b"".join(member(*one) for one in MEMBERS) + END
    path = written(tmp_path / "x.tar", data[: size + 1024])
    with pytest.raises(
        DataError, match=rf"x.tar ends early, after {whole + 1} of its files: .* --config.data.partial=True$"
    ):
        listed(path)
    files = listings.list_files(path, partial=True)
    assert list(files.names) == ["b/0.png", *(name for name, _ in MEMBERS[:whole])] and files.warnings == [files.ending]
    found = find_inputs([str(path)])
    assert [reference.read()[:1] for _, reference in found.stream()] == [b"0", b"1", b"2", b"3"][: whole + 1]
    assert any(f"after {whole + 1} of its files" in line for line in found.warnings)


def test_a_member_whose_data_are_cut_is_named(tmp_path):
    data = b"".join(member(*one) for one in MEMBERS) + END
    source = listed(written(tmp_path / "x.tar", data[:5000]), partial=True)
    assert source.rejected == (("b/3.png", "its data end early"),) and contents(source) == dict(MEMBERS[:2])
    (line,) = source.warnings
    assert "after 2 of its files" in line


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_that_is_cut_is_refused_or_used_as_far_as_it_goes(tmp_path, kind):
    members = [(f"{'ab'[i % 2]}/{i}.png", os.urandom(1500)) for i in range(1000)]
    whole = written(tmp_path / f"w.{kind}", b"".join(member(*one) for one in members) + END).read_bytes()
    path = tmp_path / f"x.{kind}"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="ends early, after .* of its files"):
        listed(path)
    found = contents(listed(path, partial=True))
    assert 100 < len(found) < 1000 and found.items() <= dict(members).items()


def test_an_end_between_two_members_is_accepted_as_gnu_tar_does_and_said(tmp_path):
    source = listed(written(tmp_path / "x.tar", b"".join(member(*one) for one in MEMBERS)))
    assert contents(source) == dict(MEMBERS)
    (line,) = source.warnings
    assert "ends without the mark that closes an archive" in line and "3 files" in line


def test_a_damaged_header_in_the_middle_does_not_end_an_archive_silently(tmp_path):
    data = bytearray(b"".join(member(*one) for one in MEMBERS) + END)
    data[1536 + 3] ^= 1
    path = written(tmp_path / "x.tar", data)
    with pytest.raises(DataError, match=r"is damaged after 1 of its files \(bad checksum\)"):
        listed(path)


def test_names_of_pax_and_gnu_headers_are_read_as_tarfile_writes_them(tmp_path):
    names = [f"{letter}/{'long' * 60}/ü{i}.png" for i, letter in enumerate("ab")]
    for shape in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{shape}.tar"
        with tarfile.open(path, "w", format=shape) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.uname = 1, 1.25, "ü" * 40
                archive.addfile(info, io.BytesIO(b"1"))
        files = listings.list_files(path)
        assert list(files.names) == names
        times = [1.25] * 2 if shape == tarfile.PAX_FORMAT else [1] * 2
        assert [files.facts(place)[1] for place in zip(*files.places, strict=True)] == times


def claims(kind):
    """The beginning of an archive and what follows it again and again, in which a header or a member claims to be huge."""
    size, zeros = 2**33, bytes(2**20)
    return {
        "longname": (header("././@LongLink", size, b"L"), b"a" * 2**20),
        "pax": (header("x", size, b"x"), b"a" * 2**20),
        "map": (sparse("a/0.png", 2**32)[:512], (b"%011o\0%011o\0" % (8, 8) * 21 + b"\1").ljust(512, b"\0") * 2048),
        "names": (b"", header("././@LongLink", 2**20, b"L") + b"a" * 2**20 + header("b/0.png", 0)),
        "member": (header("b/0.png", size), zeros),
    }[kind]


# In a process of its own, because the most memory that a process ever had is not forgotten.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["longname", "pax", "map", "names", "member"])
def test_memory_of_a_bomb_stays_below_the_limit(tmp_path, kind):
    begin, more = claims(kind)
    coder = zlib.compressobj(1, zlib.DEFLATED, 31)
    first = coder.compress(member("a/1.png", b"1") + begin) + coder.flush(zlib.Z_FULL_FLUSH)
    block = coder.compress(more) + coder.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it, and may come again
    (tmp_path / "x.tar.gz").write_bytes(first + block * 150)
    assert peak(tmp_path / "x.tar.gz") < 60


def test_memory_of_xz_with_a_huge_dictionary_stays_below_the_limit(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**29}]
    coder = lzma.LZMACompressor(filters=[{**filters[0], "mf": lzma.MF_HC3, "dict_size": 2**20}])
    data = bytearray(coder.compress(member("a/1.png", b"1") + END) + coder.flush())
    assert data[12:17] == bytes(
        (2, 0, 0x21, 1, 16)
    )  # header of the first block: its size, flags, LZMA2, one byte: the dictionary
    data[16] = 34  # 512 MiB
    data[20:24] = struct.pack("<I", zlib.crc32(data[12:20]))
    (tmp_path / "x.tar.xz").write_bytes(data)
    with pytest.raises(DataError, match=r"x.tar.xz takes more than 256 MiB of memory to decompress"):
        listings.list_files(tmp_path / "x.tar.xz")


def peak(path):
    """MB of memory that listing and reading an archive takes above that before it."""
    code = """
        import pathlib, resource, sys
        from cnnjax.data import columns, listings
        from cnnjax.errors import DataError
        columns.table([("a",)], "string")
        most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = most()
        files = listings.list_files(pathlib.Path(sys.argv[1]), partial=True)
        assert "a/1.png" in list(files.names)
        for _, reference in files.stream() if files.stream else ():
            reference.read()
        print(most() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_a_zip_that_is_larger_than_its_directory_says_is_not_decompressed(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a/1.png", bytes(2**24))
        archive.writestr("b/1.png", b"1")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 100)
    (tmp_path / "x.zip").write_bytes(data)
    bomb, good = (reference for _, reference in listed(tmp_path / "x.zip").stream())
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32 for file 'a/1.png'"):
            bomb.read()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert good.read() == b"1"


def zip_of(path, entries):
    """A zip archive with directory entries (name, place of the local header), of stored members that hold b"1"."""
    facts = struct.pack("<4H3L", 0, 0, 0, 33, zlib.crc32(b"1"), 1, 1)
    body = b"".join(
        b"PK\3\4" + struct.pack("<H", 20) + facts + struct.pack("<2H", 7, 0) + name + b"1"
        for name in (b"a/1.png", b"b/1.png")
    )
    directory = b"".join(b"PK\1\2" + struct.pack("<2H", 20, 20) + facts + struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, place) + name
                         for name, place in entries)  # fmt: skip
    path.write_bytes(
        body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    )
    return path


def test_members_of_a_zip_that_share_their_bytes_are_read_once(tmp_path):
    path = zip_of(tmp_path / "x.zip", [(b"a/1.png", 0), (b"a/2.png", 0), (b"a/3.png", 5), (b"b/1.png", 38)])
    source = listed(path)
    assert source.rejected == tuple((f"a/{i}.png", "shares its bytes with another member") for i in (2, 3))
    assert contents(source) == {"a/1.png": b"1", "b/1.png": b"1"}


def test_names_of_members_that_cannot_be_files_are_rejected(tmp_path):
    path = zip_of(tmp_path / "x.zip", [(b"a/1.png\0.exe", 0), (b"b/1.png", 38)])
    assert listings.list_files(path).rejected == [("a/1.png", "a zero byte in its name")]
    files = listings.list_files(
        written(tmp_path / "x.tar", member("././@LongLink", b"a" * 5000, b"L") + member("a/1.png", b"1") + END)
    )
    ((name, reason),) = files.rejected
    assert name == "a" * 100 and reason == "a name of 5,000 letters, more than 4,096" and not len(files.names)


def test_a_member_of_a_zip_that_is_another_file_than_the_directory_says_fails_alone(tmp_path):
    path = zip_of(tmp_path / "x.zip", [(b"a/2.png", 0), (b"b/1.png", 38)])
    other, good = (reference for _, reference in listed(path).stream())
    with pytest.raises(zipfile.BadZipFile, match="differ"):
        other.read()
    assert good.read() == b"1"


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (93, "zstd")])
def test_a_method_of_compression_that_cannot_be_read_is_named(tmp_path, method, name):
    data = bytearray(zip_of(tmp_path / "x.zip", [(b"a/1.png", 0), (b"b/1.png", 38)]).read_bytes())
    data[data.index(b"PK\1\2") + 10] = method
    (tmp_path / "x.zip").write_bytes(data)
    first, second = (reference for _, reference in listed(tmp_path / "x.zip").stream())
    with pytest.raises(NotImplementedError, match=f"compressed with {name}"):
        first.read()
    assert second.read() == b"1"


def test_a_directory_of_a_zip_that_claims_more_than_there_is_is_one_line(tmp_path):
    path = zip_of(tmp_path / "x.zip", [(b"a/1.png", 0), (b"b/1.png", 38)])
    data = path.read_bytes()
    for end, reason in (((9, 9, 106, 76), "says 9 members and has 2"), ((2, 2, 2**31, 76), "Bad offset")):
        path.write_bytes(data[:-14] + struct.pack("<2H2LH", *end, 0))
        with pytest.raises(DataError, match=rf"x.zip is damaged \(.*{reason}.*\); get it again"):
            listed(path)


def test_large_files_of_a_stream_wait_one_by_one(monkeypatch):
    monkeypatch.setattr(decoding, "HELD", 1000)
    held, most = [0], []

    def references():
        for _ in range(100):
            held[0] += 1
            most.append(held[0])
            yield DataReference(bytes(600))

    for _, facts in decoding.decode_all(references(), 10_000, (4, 4), "bilinear", workers=4):
        held[0] -= len(facts)
    assert len(most) == 100 and held == [0] and max(most) <= 3
