"""The files of a folder or an archive, and how to read one of them later, in any process."""

import contextlib
import dataclasses
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from cnnjax.data import code_pages
from cnnjax.data.columns import Column, table
from cnnjax.data.limits import MAX_BYTES
from cnnjax.data.tar_files import DAMAGE, TarMember, TarReader, TarReference, is_plain, is_tar, open_tar
from cnnjax.data.zip_files import ZIP_PLACE, ZipReference, overlapping, read_directory
from cnnjax.errors import DataError
from cnnjax.inside import leaves
from cnnjax.progress import counted

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
SIGNATURES = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # with which archives, but for .tar, begin
MAX_NAME = 4096  # bytes of a name below the root: Linux takes no longer path


class Reference(Protocol):
    """How a worker process gets at one example: small, picklable, read there."""

    def read(self) -> bytes | np.ndarray:
        """The encoded file, or uint8 pixels [height, width] or [height, width, channels]."""


class FileReference(NamedTuple):
    path: str

    def read(self) -> bytes:
        """Returns the file.

        Raises:
            OSError: it cannot be opened.
            ValueError: not a regular file, more than `MAX_BYTES`, or one that became shorter meanwhile.
        """
        # Half the calls of `open`; one that waits, as of a pipe without a writer, would not end.
        file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("not a regular file")
            data = os.read(file, min(facts.st_size, MAX_BYTES) + 1)
            while len(data) != facts.st_size and (
                more := os.read(file, max(len(data), 2**20))
            ):  # it has grown, or a read was cut short
                data += more
                if len(data) > MAX_BYTES:
                    break
            if len(data) > MAX_BYTES:
                raise ValueError(_too_large(max(facts.st_size, len(data))))
            if len(data) < facts.st_size:
                raise ValueError(f"it became shorter while it was read, {len(data):,} of {facts.st_size:,} bytes")
            return data
        finally:
            os.close(file)


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
        ending: of these, the line about an archive that may lack files at its end; "" for none.
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
    ending: str = ""
    sized: bool = True  # the first of `places` is the bytes of a file


def list_files(path: Path, page: str = "", *, partial: bool = False) -> Files:
    """Lists a folder or an archive; an archive is known by its content.

    Args:
        path: of it.
        page: code page of the names in a zip archive that do not say theirs; see `code_pages.name_of`.
        partial: list the whole files of a tar archive that ends early or is damaged, with a warning.

    Raises:
        DataError: it is neither, or damaged.
    """
    if path.is_dir():
        return _list_folder(path)
    if not path.is_file():
        raise DataError(f"{path} is neither a folder nor a file; name one with --config.data.path=PATH")
    try:
        if zipfile.is_zipfile(path):
            return _list_zip(path, page)
        if is_tar(path):
            return _list_tar(path, partial)
    except DataError:
        raise
    except Exception as error:  # damage makes the readers raise anything, zlib.error and LZMAError among it
        raise DataError(f"{path} is damaged ({_reason(error)}); get it again") from None
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(262)
    if not size or head.startswith(SIGNATURES) or head[257:] == b"ustar":
        raise DataError(f"{path} is an archive that is cut or damaged (it has {size:,} bytes); compare its size with the "
                        "original's and get it again")  # fmt: skip
    raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)}), judged by its content; name one "
                    "with --config.data.path=PATH")  # fmt: skip


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
                    rejected.append((id, _too_large(facts.st_size) if stat.S_ISREG(facts.st_mode) else "not a regular file"))
                    continue
                yield id, facts.st_size, facts.st_mtime_ns

    names, *places = table(rows(), "string", "int64", "int64")
    above = os.path.join(root, "")
    return Files(names, places, tuple, rejected, lambda name, place: FileReference(above + spelled.get(name, name)), folders)


def spelled_out(name: str) -> str:
    """Returns a name with bytes that are not UTF-8 spelled out, so that it can be printed and written to files."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _too_large(size: int) -> str:
    return f"{size:,} bytes, more than {MAX_BYTES:,}"


def _refusal(name: str, size: int) -> str:
    """Returns why a member of an archive is not read, by its name and its bytes; "" where it is."""
    if len(name) > MAX_NAME:
        return f"a name of {len(name):,} letters, more than {MAX_NAME:,}"
    if "\0" in name:
        return "a zero byte in its name"
    if leaves(name):
        return "points outside the archive"
    return _too_large(size) if size > MAX_BYTES else ""


def _list_zip(path: Path, page: str) -> Files:
    rejected, spelled, folders, unknown = [], {}, [], []

    def rows() -> Iterator[tuple]:
        with open(path, "rb") as file:
            for info in read_directory(file):
                # Some programs of Windows write "\\" where the format wants "/".
                name = code_pages.name_of(info, page, unknown)
                name = name if "/" in name else name.replace("\\", "/")
                if reason := "a zero byte in its name" if "\0" in info.orig_filename else _refusal(name, info.file_size):
                    rejected.append((name[:100] if len(name) > MAX_NAME else name, reason))
                elif name.endswith("/"):
                    folders.append(name[:-1])
                elif stat.S_ISLNK(info.external_attr >> 16):
                    rejected.append((name, "a link inside an archive"))
                else:
                    if info.orig_filename != name:
                        spelled[name] = info.orig_filename
                    yield name, *(getattr(info, field) for field in ZIP_PLACE)

    names, *places = table(rows(), "string", *ZIP_PLACE.values())
    place = dict(zip(ZIP_PLACE, places, strict=True))
    shared = overlapping(place["header_offset"].array.to_numpy(), place["compress_size"].array.to_numpy())
    if shared.any():
        rejected += [(name, "shares its bytes with another member") for name in names.take(np.flatnonzero(shared))]
        names, *places = (Column(column.array.filter(~shared)) for column in (names, *places))
    return Files(names, places, lambda place: place[:2], rejected,
                  lambda name, place: ZipReference(str(path), spelled.get(name, name), place), folders, warnings=code_pages.advice(unknown))  # fmt: skip


def _list_tar(path: Path, partial: bool) -> Files:
    changed = path.stat().st_mtime_ns  # the members of a reproducible tar all have one time
    rejected, folders, count, broken, ending = [], [], 0, "", ""

    def rows() -> Iterator[tuple]:
        nonlocal count, broken
        try:
            for name, member in _tar_files(reader, rejected, folders):
                # The time is kept as it is, whole or not, because the fingerprint depends on it.
                yield name, member.size, json.dumps(member.modified), member.offset
                count += 1
        except DAMAGE as error:
            broken = f"{path} ends early, after {count:,} of its files: it is cut or still being written"
            if not isinstance(error, EOFError):
                broken = f"{path} is damaged after {count:,} of its files ({_reason(error)})"

    with open_tar(path) as file:
        plain, reader = is_plain(file), TarReader(file, contents=False)
        names, *places = table(rows(), "string", "int64", "string", "int64")
    if broken and not partial:
        raise DataError(f"{broken}; get it again, or use these with --config.data.partial=True")
    if broken:
        ending = f"{broken}; these are used"
    elif not reader.closed:
        ending = f"{path} ends without the mark that closes an archive, as some programs leave it; it has {counted(count, 'file')}: get it again if some are missing"

    def stream() -> Iterator[tuple[int, Reference]]:
        done = 0
        with open_tar(path) as file, contextlib.suppress(*DAMAGE):  # said when it was listed, or below
            for _, member in _tar_files(TarReader(file, contents=True), [], []):
                yield done, DataReference(member.data)
                done += 1
        if done != count:
            raise DataError(
                f"{path} gave {counted(done, 'file')} when it was read, and {count:,} when it was listed; start again"
            )

    return Files(names, places, lambda place: (place[0], json.loads(place[1]), changed), rejected,
                  lambda _, place: TarReference(str(path), place[2], place[0]),
                  folders, None if plain else stream, [ending] if ending else [], ending)  # fmt: skip


def _tar_files(reader: TarReader, rejected: list, folders: list) -> Iterator[tuple[str, TarMember]]:
    """Name and member of each file that may be read; the others are added to `rejected`, or to `folders`."""
    for member in reader:
        name = spelled_out(member.name.removeprefix("./"))
        if reason := _refusal(member.name, member.size if member.kind == "file" else 0):
            rejected.append((name[:100] if len(name) > MAX_NAME else name, reason))
        elif member.kind == "folder":
            folders.append(name)
        elif member.kind != "file":
            rejected.append((name, member.kind))
        else:
            yield name, member
