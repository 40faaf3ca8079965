"""The files of a folder or an archive, and how to read one of them later, in any process."""

import dataclasses
import functools
import io
import json
import os
import re
import stat
import struct
import tarfile
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from cnnjax.data import code_pages
from cnnjax.data.columns import Column, table
from cnnjax.errors import DataError

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
SIGNATURES = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # with which archives, but for .tar, begin


PAGED = 200_000  # members of a zip archive from which its directory is read in parts


class Reference(Protocol):
    """How a worker process gets at one example: small, picklable, read there."""

    def read(self) -> bytes | np.ndarray:
        """The encoded file, or uint8 pixels [height, width] or [height, width, channels]."""


class FileReference(NamedTuple):
    path: str
    size: int | None = None  # in bytes, as far as it is known

    def read(self) -> bytes:
        file = os.open(self.path, os.O_RDONLY)  # half the calls of `open`
        try:
            size = os.fstat(file).st_size if self.size is None else self.size
            data = os.read(file, size + 1)
            while len(data) != size and (more := os.read(file, 2**20)):  # it has grown, or a read was cut short
                data += more
            return data
        finally:
            os.close(file)


@dataclasses.dataclass(frozen=True, slots=True)
class ZipReference:
    archive: str
    member: str
    place: tuple[int, ...]  # as `ZIP_PLACE`

    def read(self) -> bytes:
        info = zipfile.ZipInfo(self.member)
        for name, value in zip(ZIP_PLACE, self.place, strict=True):
            setattr(info, name, value)
        if info.flag_bits & 1:
            raise RuntimeError(f"File {self.member!r} is encrypted, password required for extraction")
        return _open_zip(self.archive).read(info)


ZIP_PLACE = {"file_size": "uint64", "CRC": "uint32", "header_offset": "int64", "compress_size": "uint64",
             "flag_bits": "uint16", "compress_type": "uint16"}  # fmt: skip


@functools.lru_cache(maxsize=4)
def _open_zip(archive: str) -> zipfile.ZipFile:
    """Reads members that it is told where to find; it knows of none, for a directory takes a kilobyte for each."""
    opened = zipfile.ZipFile(io.BytesIO(_zip_end(0, 0)))
    opened.fp = open(archive, "rb")  # noqa: SIM115
    weakref.finalize(opened, opened.fp.close)
    return opened


def _zip_end(count: int, size: int) -> bytes:
    """Returns the end of a zip archive whose directory has `count` members in `size` bytes."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class TarReference:
    archive: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.archive, "rb") as file:
            if self.size > os.fstat(file.fileno()).st_size:  # memory for a mere claim would be asked for
                raise OSError(f"it claims {self.size:,} bytes, more than the archive has")
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(frozen=True, slots=True)
class DataReference:
    data: bytes | np.ndarray

    def read(self) -> bytes | np.ndarray:
        return self.data


@dataclasses.dataclass
class Files:
    """The files of a folder or an archive, in its own order.

    Attributes:
        names: paths below the root with "/"; of one that comes more than once, the last counts.
        places: columns that say what the fingerprint depends on, and where to find the file; a row of them is a place.
        facts: place -> what of it the fingerprint depends on.
        rejected: (name, reason).
        reference: (name, place) -> reference.
        folders: that hold nothing, and in archives those that have an entry of their own.
        warnings: lines about what is odd.
        stream: of what can only be read from its beginning: () -> (number of the file, reference).
    """

    names: Column
    places: list[Column]
    facts: Callable[[tuple], tuple]
    rejected: list[tuple[str, str]]
    reference: Callable[[str, tuple], Reference]
    folders: list[str] = dataclasses.field(default_factory=list)
    stream: Callable[[], Iterator[tuple[int, Reference]]] | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)


def list_files(path: Path, page: str = "") -> Files:
    """Lists a folder or an archive; an archive is known by its content.

    Args:
        path: of it.
        page: code page of the names in a zip archive that do not say theirs; see `code_pages.name_of`.

    Raises:
        DataError: it is neither, or damaged.
    """
    if path.is_dir():
        return _list_folder(path)
    try:
        if zipfile.is_zipfile(path):
            return _list_zip(path, page)
        if tarfile.is_tarfile(path):
            return _list_tar(path)
    except DataError:
        raise
    except Exception as error:  # damage makes the readers raise anything, zlib.error and LZMAError among it
        raise _damaged(path, error) from None
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(262)
    if not size or head.startswith(SIGNATURES) or head[257:] == b"ustar":
        raise DataError(f"{path} is an archive that is cut or damaged (it has {size:,} bytes); compare its size with the "
                        "original's and get it again")  # fmt: skip
    raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)}), judged by its content; name one "
                    "with --config.data.path=PATH")  # fmt: skip


def _damaged(path: Path, error: Exception) -> DataError:
    """The one line about an archive whose reader raises an error."""
    return DataError(f"{path} is damaged ({' '.join(str(error).split()) or type(error).__name__}); get it again")


def _list_folder(root: Path) -> Files:
    rejected, spelled, above, folders = [], {}, {}, []

    def rows() -> Iterator[tuple]:
        for directory, names, files, place in os.fwalk(root, follow_symlinks=True):
            real, higher = os.path.realpath(directory), above.get(os.path.dirname(directory), ())
            if real in higher:  # a link to a folder above would never end
                names.clear()
                continue
            above[directory] = (*higher, real)
            below = os.path.relpath(directory, root)
            if not names and not files:
                folders.append(spelled_out(below))
            below = "" if below == "." else f"{below}/"
            for name in files:
                relative = below + name
                id = spelled_out(relative)
                if id != relative:
                    spelled[id] = relative
                try:
                    facts = os.stat(name, dir_fd=place)  # the folders above it are not looked up again
                except OSError as error:
                    rejected.append((id, f"cannot be read ({error.strerror})"))
                    continue
                if not stat.S_ISREG(facts.st_mode):
                    rejected.append((id, "not a regular file"))
                    continue
                yield id, facts.st_size, facts.st_mtime_ns

    names, *places = table(rows(), "string", "int64", "int64")
    above = os.path.join(root, "")
    return Files(
        names, places, tuple, rejected, lambda name, place: FileReference(above + spelled.get(name, name), place[0]), folders
    )


def spelled_out(name: str) -> str:
    """Returns a name with bytes that are not UTF-8 spelled out, so that it can be printed and written to files."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or bool(re.match("[A-Za-z]:", name))


def _list_zip(path: Path, page: str) -> Files:
    rejected, spelled, folders, unknown = [], {}, [], []

    def rows() -> Iterator[tuple]:
        with open(path, "rb") as file:
            for info in _zip_members(file):
                # Some programs of Windows write "\\" where the format wants "/".
                name = code_pages.name_of(info, page, unknown)
                name = name if "/" in name else name.replace("\\", "/")
                if name.endswith("/"):
                    folders.append(name[:-1])
                elif _unsafe(name):
                    rejected.append((name, "points outside the archive"))
                elif stat.S_ISLNK(info.external_attr >> 16):
                    rejected.append((name, "a link inside an archive"))
                else:
                    if info.orig_filename != name:
                        spelled[name] = info.orig_filename
                    yield name, *(getattr(info, field) for field in ZIP_PLACE)

    names, *places = table(rows(), "string", *ZIP_PLACE.values())
    return Files(names, places, lambda place: place[:2], rejected,
                  lambda name, place: ZipReference(str(path), spelled.get(name, name), place), folders, warnings=code_pages.advice(unknown))  # fmt: skip


def _zip_members(file) -> Iterator[zipfile.ZipInfo]:
    """Gives the members of an archive; of `PAGED` or more a part at a time, because `ZipFile` keeps a kilobyte for each."""
    end = zipfile._EndRecData(file)  # private: the search for the end that `is_zipfile` has made
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    if end[4] < PAGED:  # what the archive says of itself; the members found may be others
        with zipfile.ZipFile(file) as archive:
            yield from archive.infolist()
        return
    left, given = end[5], end[6]
    start = end[9] - left - (76 if end[0] == b"PK\6\6" else 0)  # bytes of the end of a large archive (ZIP64)
    if start < 0:
        raise zipfile.BadZipFile("Bad offset for central directory")
    file.seek(start)
    while left > 0:
        part, count = bytearray(), 0
        while left > 0 and count < 1000:
            head = file.read(46)
            if len(head) < 46:
                raise zipfile.BadZipFile("Truncated central directory")
            entry = head + file.read(sum(struct.unpack_from("<3H", head, 28)))  # name, extra field, comment
            part += entry
            left, count = left - len(entry), count + 1
        for info in zipfile.ZipFile(io.BytesIO(part + _zip_end(count, len(part)))).infolist():
            info.header_offset += start - given  # where something stands before the archive
            yield info


def _list_tar(path: Path) -> Files:
    changed = path.stat().st_mtime_ns  # the members of a reproducible tar all have one time
    rejected, folders = [], []
    with tarfile.open(path) as archive:
        compressed = not isinstance(archive.fileobj, io.BufferedReader)
        # The time is kept as it is, whole or not, because the fingerprint depends on it.
        rows = (
            (name, info.size, json.dumps(info.mtime), info.offset_data)
            for name, info in _tar_files(archive, rejected, folders)
        )
        names, *places = table(rows, "string", "int64", "string", "int64")

    def stream() -> Iterator[tuple[int, Reference]]:
        try:
            with tarfile.open(path, "r|*") as archive:
                for number, (_, info) in enumerate(_tar_files(archive, [], [])):
                    yield number, DataReference(archive.extractfile(info).read())
        except Exception as error:  # the end of a compressed archive is checked here for the first time
            raise _damaged(path, error) from None

    return Files(names, places, lambda place: (place[0], json.loads(place[1]), changed), rejected,
                  lambda _, place: TarReference(str(path), place[2], place[0]),
                  folders, stream if compressed else None)  # fmt: skip


def _tar_files(archive: tarfile.TarFile, rejected: list, folders: list) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Name and member of each file that may be read; the others are added to `rejected`, or to `folders`."""
    for info in _members(archive):
        name = spelled_out(info.name.removeprefix("./"))
        if info.isdir():
            folders.append(name)
        elif _unsafe(info.name):
            rejected.append((name, "points outside the archive"))
        elif not info.isreg():
            rejected.append((name, "a link or a device inside an archive"))
        elif info.issparse():
            rejected.append((name, "a sparse file, whose size is a mere claim"))
        else:
            yield name, info


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member once. `TarFile` keeps all that it has seen, a kilobyte each."""
    while (info := archive.next()) is not None:
        yield info
        archive.members.clear()
