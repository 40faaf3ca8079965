"""Damaged archives: a listing or a DataError, names that stay inside, and files that are read or refused without much memory."""

import bz2
import functools
import gzip
import io
import lzma
import posixpath
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from fuzz.findings import Finding, bounded, told
from fuzz.mutations import damaged

from cnnjax.data import listings
from cnnjax.errors import DataError

SECONDS = 30  # of an attempt, after which its process is ended
LIMITED = True
CPU = 5  # seconds of the processor for one archive of a few kilobytes
READ = 40  # files that are read of an archive
TEXT = "a file that repeats itself, a file that repeats itself, "
PACKED = {"gz": lambda data: gzip.compress(data, mtime=0), "xz": lzma.compress, "bz2": bz2.compress}
OPENED = {b"\x1f\x8b": (gzip.decompress, "gz"), b"\xfd7": (lzma.decompress, "xz"), b"BZ": (bz2.decompress, "bz2")}


def attempt(rng: random.Random, folder: Path) -> None:
    """Lists a damaged archive and reads its files. Raises Finding."""
    whole = rng.choice(seeds())
    data = _repaired(rng, whole)
    if not data:
        return
    path = folder / "archive"
    path.write_bytes(data)
    with bounded(CPU):
        examine(path, rng.choice(("", "cp949", "cp1251")))


def examine(path: Path, page: str = "") -> int:
    """Lists an archive and reads what it lists; returns how many files are listed. Raises Finding."""
    try:
        files = listings.list_files(path, page)
    except DataError as error:
        if len(str(error).splitlines()) != 1:
            raise Finding("listing: refused in several lines", repr(error)) from error
        return 0
    except Exception as error:
        raise Finding(f"listing: {told(error)}", repr(error)) from error
    for name in files.names:
        if leaves(name):
            raise Finding("a name leaves the archive", repr(name))
    references = [files.reference(name, place) for name, *place in zip(files.names, *files.places, strict=True)]
    for reference in references[:READ]:
        _read(reference)
    if files.stream:
        _stream(files.stream, len(references))
    return len(references)


def leaves(name: str) -> bool:
    """Returns whether a name, below a folder, is a place outside of it; "\\xff" is a byte that is spelled out."""
    name = re.sub(r"\\x[0-9a-f]{2}", "?", name)
    inside = posixpath.normpath(posixpath.join("/above/archive", name.replace("\\", "/")))
    return not inside.startswith("/above/archive") or bool(re.match("[A-Za-z]:", name)) or name.startswith(("/", "\\"))


def _read(reference) -> None:
    """Reads a file; damage may raise any error but these."""
    try:
        data = reference.read()
    except (MemoryError, RecursionError, OverflowError) as error:
        raise Finding(f"reading: {told(error)}", repr(error)) from error
    except Exception:  # the caller writes it to quarantine.csv
        return
    if not isinstance(data, bytes):
        raise Finding("reading gives no bytes", repr(data)[:100])


def _stream(stream: Callable, count: int) -> None:
    """Reads from the beginning of an archive."""
    try:
        for number, reference in stream():
            if number >= count:
                raise Finding("the stream has more files than the listing", f"{number + 1}, not {count}")
            _read(reference)
    except Finding:
        raise
    except DataError as error:
        if "MemoryError" in str(error):
            raise Finding("streaming: MemoryError", repr(error)) from error
    except Exception as error:
        raise Finding(f"streaming: {told(error)}", repr(error)) from error


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Small archives of every kind."""
    tars = [tar(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return (*(zipped(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)), *tars, sparse(),
            *(pack(data) for data in (tars[1], tars[2]) for pack in PACKED.values()))  # fmt: skip


def zipped(method: int) -> bytes:
    """A zip archive with folders, a name of another system, a link and a name that points outside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for number, name in enumerate(NAMES):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = (0o120777 if number == 3 else 0o100644) << 16
            archive.writestr(info, TEXT * number)
        archive.comment = b"made by a test"
    return file.getvalue()


def tar(format: int) -> bytes:
    """A tar archive with the same."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for number, name in enumerate((*NAMES, "long/" * 30 + "name.png")):
            info = tarfile.TarInfo(name)
            data = (TEXT * number).encode()
            info.size = 0 if number == 3 else len(data)
            info.type, info.linkname = (tarfile.SYMTYPE, "/etc/hostname") if number == 3 else (tarfile.REGTYPE, "")
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


NAMES = (
    "cat/1.png",
    "cat/2.png",
    "dog/3.png",
    "dog/link.png",
    "../outside.png",
    "dog/",
    "dog\\4.png",
    "d\u00f6g/5.png",
    "/top.png",
)


def sparse() -> bytes:
    """A tar archive with a sparse file of GNU's form: 100 kB, of which 512 bytes are there."""
    info = tarfile.TarInfo("cat/sparse.png")
    info.size, info.type = 512, tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410], head[483:495] = b"00000000000\00000000001000\0"[:24], b"00000303240\0"
    return _checked(bytes(head)) + b"x" * 512 + bytes(1024)


def _checked(head: bytes) -> bytes:
    """A header of a tar archive with its checksum."""
    total = sum(head[:148]) + 8 * 32 + sum(head[156:512])
    return head[:148] + b"%06o\0 " % total + head[156:]


def _repaired(rng: random.Random, whole: bytes) -> bytes:
    """Damages an archive; often inside of its compression, and with the checksums of a tar's headers right again."""
    kind = OPENED.get(whole[:2])
    if kind and rng.random() < 0.7:
        return PACKED[kind[1]](_repaired(rng, kind[0](whole)))
    if kind:
        return damaged(rng, whole)
    is_tar = whole[257:262] == b"ustar"
    if rng.random() < 0.3:
        return _headers(_claiming_tar(rng, whole)) if is_tar else _claiming_zip(rng, whole)
    data = damaged(rng, whole, seeds())
    return _headers(data) if is_tar and rng.random() < 0.7 else data


def _headers(data: bytes) -> bytes:
    """A tar archive whose headers have their checksums."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(_checked(block) if block[257:262] == b"ustar" and len(block) == 512 else block for block in blocks)


def _claiming_tar(rng: random.Random, data: bytes) -> bytes:
    """A tar archive of which one header claims another size, whole or of a sparse file, or another type."""
    at = rng.choice([at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"])
    if rng.random() < 0.3:
        return (
            data[: at + 156]
            + rng.choice((b"1", b"2", b"3", b"5", b"7", b"S", b"L", b"K", b"x", b"g", b"\0", b"?"))
            + data[at + 157 :]
        )
    number = rng.choice((0, 1, 512, 10**6, 8**11 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**80, -1))
    octal = 0 <= number < 8**11
    field = (
        b"%011o\0" % number
        if octal
        else struct.pack(">I", 0xFFFFFFFF if number < 0 else 1 << 31) + (number % 2**64).to_bytes(8, "big")
    )
    place = at + rng.choice((124, 124, 483, 136))  # size, size of a sparse file, time
    return data[:place] + field + data[place + 12 :]


def _claiming_zip(rng: random.Random, data: bytes) -> bytes:
    """A zip archive of which one entry of the directory claims another size, place, method or flag."""
    at = [found.start() for found in re.finditer(b"PK\1\2", data)]
    field, kind = rng.choice(((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (38, "<I"), (42, "<I")))
    field += rng.choice(at)
    value = rng.choice((0, 1, 8, 0xFFFF, rng.getrandbits(16), *((0x7FFFFFFF, 0xFFFFFFFF) if kind == "<I" else ())))
    return data[:field] + struct.pack(kind, value) + data[field + struct.calcsize(kind) :]
