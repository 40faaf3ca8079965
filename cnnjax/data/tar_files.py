"""Tar archives, plain and compressed: read once, from the front, in bounded memory, and never taken for whole where they end early.

`tarfile` reads headers of any size into memory, and ends without a word at a damaged one; here it parses single blocks only.
"""

import bz2
import contextlib
import dataclasses
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from cnnjax.data.limits import MAX_BYTES, MAX_DICTIONARY
from cnnjax.errors import DataError

BLOCK = 512  # bytes
PIECE = 2**16  # bytes that are decompressed at once
MAX_HEADER = 2**20  # bytes of a long name or of a pax header; extended attributes take up to 64 KiB each
LONGEST = 2**14  # bytes that are kept of a name or a number in it: four for each letter of the longest name
EXTENSIONS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}  # types of headers that tell of the header after them
WITHOUT_DATA = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
DAMAGE = (EOFError, OSError, tarfile.HeaderError, zlib.error, lzma.LZMAError)  # of a broken archive


@dataclasses.dataclass(frozen=True, slots=True)
class TarReference:
    """A file in a plain tar archive.

    Attributes:
        archive: path of it.
        offset: bytes before the file.
        size: bytes of the file.
    """

    archive: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Returns the file. Raises ValueError where the archive has become shorter."""
        with open(self.archive, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError(f"the archive ends after {len(data):,} of {self.size:,} bytes")
        return data


@dataclasses.dataclass(slots=True)
class TarMember:
    """A member of a tar archive.

    Attributes:
        name: as the archive has it.
        kind: "file", "folder" or why it is neither.
        size: bytes of data that follow its header.
        modified: seconds since 1970, whole or not.
        offset: bytes of the archive, decompressed, before its data.
        data: its content where contents are read, else b"".
    """

    name: str
    kind: str
    size: int
    modified: float
    offset: int
    data: bytes = b""


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[BinaryIO]:
    """Opens a tar archive as one that is not compressed; reads from its front only, unless it is a plain file."""
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        file.seek(0)
        opener = next((opener for sign, opener in CODERS.items() if head.startswith(sign) and not _is_header(head)), None)
        yield opener(file) if opener else file


def is_tar(path: Path) -> bool:
    """Returns whether a file, decompressed, begins with the header of a tar archive."""
    try:
        with open_tar(path) as file:
            return _is_header(file.read(BLOCK))
    except DAMAGE:
        return False


def is_plain(file: BinaryIO) -> bool:
    """Returns whether an opened archive is not compressed."""
    return isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)


class TarReader:
    """Reads an opened archive once, from its front, and yields each member as a `TarMember`.

    A member whose data end early is yielded with that as its kind, and EOFError follows. Two blocks of zeros close an archive. Some
    programs leave them out, and GNU tar accepts any end between two members.

    Args:
        file: of `open_tar`, at its front.
        contents: read the content of each file of `MAX_BYTES` and less; without, it is skipped.

    Attributes:
        closed: whether a block of zeros was found.

    Raises:
        EOFError: the archive ends within a member.
        tarfile.HeaderError: a header is damaged, or larger than `MAX_HEADER`.
        OSError, zlib.error, lzma.LZMAError: the compressed data are damaged.
    """

    def __init__(self, file: BinaryIO, *, contents: bool):
        self.closed = False
        self._file, self._contents, self._at = file, contents, 0
        self._size = os.fstat(file.fileno()).st_size if is_plain(file) else None

    def __iter__(self) -> Iterator[TarMember]:
        general, own, begun = {}, {}, False  # facts of all members that follow, and of the next one; whether that has begun
        while head := self._read(BLOCK, least=BLOCK if begun else 0):
            try:
                info = _header(head)
            except tarfile.EOFHeaderError:
                self.closed = True
                return
            if info.type in EXTENSIONS:
                found = self._extension(info)
                if info.type == tarfile.XGLTYPE:
                    general |= found
                else:
                    own, begun = {**found, **own}, True  # the outer one counts
                continue
            more = info.type == tarfile.GNUTYPE_SPARSE and head[482]
            while more:  # blocks of its map
                more = self._read(BLOCK, least=BLOCK)[504]
            member = _member(info, general | own, self._at)
            own, begun = {}, False
            if info.type not in WITHOUT_DATA:
                try:
                    member.data = self._content(member)
                except EOFError:
                    member.kind = "its data end early"
                    yield member
                    raise
            yield member
            member.data = b""  # while the next one is read
            if info.type not in WITHOUT_DATA:
                self._skip(-member.size % BLOCK)

    def _extension(self, info: tarfile.TarInfo) -> dict[str, str]:
        """Reads the header before a header: a long name of GNU tar, or the facts of pax."""
        if not 0 <= info.size <= MAX_HEADER:
            raise tarfile.InvalidHeaderError(f"a header of {info.size:,} bytes, more than {MAX_HEADER:,}")
        data = self._read(info.size, least=info.size)
        self._skip(-info.size % BLOCK)
        if info.type == tarfile.GNUTYPE_LONGLINK:
            return {}
        if info.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
        return _pax_facts(data)

    def _content(self, member: TarMember) -> bytes:
        if self._contents and member.kind == "file" and member.size <= MAX_BYTES:
            return self._read(member.size, least=member.size)
        self._skip(member.size)
        return b""

    def _read(self, count: int, least: int) -> bytes:
        data = self._file.read(count)
        self._at += len(data)
        if len(data) < least or 0 < len(data) < count:
            raise EOFError("it ends early")
        return data

    def _skip(self, count: int) -> None:
        if self._size is None:
            for left in range(count, 0, -PIECE):
                self._read(min(left, PIECE), least=min(left, PIECE))
            return
        if self._at + count > self._size:
            raise EOFError("it ends early")
        self._at += count
        self._file.seek(self._at)


def _header(block: bytes) -> tarfile.TarInfo:
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _is_header(block: bytes) -> bool:
    """Returns whether a block begins a tar archive; one of zeros closes an empty one."""
    try:
        _header(block)
    except tarfile.EOFHeaderError:
        return True
    except tarfile.HeaderError:
        return False
    return True


def _member(info: tarfile.TarInfo, facts: Mapping[str, str], offset: int) -> TarMember:
    """Returns the member of a header, with the facts that pax headers say of it."""
    try:
        size = int(facts.get("size", info.size))
    except ValueError:
        size = -1
    if size < 0:
        raise tarfile.InvalidHeaderError("a member without a size")
    try:
        modified = float(facts["mtime"]) if "mtime" in facts else info.mtime
    except ValueError:
        modified = 0
    if info.isdir():
        kind = "folder"
    elif info.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse.") for name in facts):
        kind = "a sparse member inside an archive"
    elif not info.isreg():
        kind = "a link or a device inside an archive"
    else:
        kind = "file"
    name = facts.get("GNU.sparse.name", facts.get("path", info.name))
    return TarMember(name.rstrip("/"), kind, size, modified, offset)


def _pax_facts(data: bytes) -> dict[str, str]:
    """Returns the records "LENGTH KEY=VALUE\\n" of a pax header that tell of a member's name, size, time and holes."""
    found, at = {}, 0
    data = data.rstrip(b"\0")
    while at < len(data):
        length, blank, _ = data[at : at + 8].partition(b" ")
        end = at + int(length) if blank and length.isdigit() else 0
        key, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise tarfile.InvalidHeaderError("a pax header that cannot be read")
        name = key.decode("utf-8", "surrogateescape")
        if name in ("path", "size", "mtime", "GNU.sparse.name"):
            found[name] = value[:LONGEST].decode("utf-8", "surrogateescape")
        elif name.startswith("GNU.sparse."):  # one word for all of them: there can be millions
            found["GNU.sparse.map"] = ""
        at = end
    return found


class _Xz(io.RawIOBase):
    """An .xz or .lzma file, decompressed forward within `MAX_DICTIONARY`, which `lzma.LZMAFile` does not take."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._coder = lzma.LZMADecompressor(memlimit=MAX_DICTIONARY)

    def readable(self) -> bool:
        return True

    def readinto(self, out) -> int:
        data = b""
        while not data:
            if self._coder.eof:  # another stream may follow, after zeros
                rest = self._coder.unused_data.lstrip(b"\0") or self._file.read(PIECE).lstrip(b"\0")
                if not rest:
                    return 0
                self._coder = lzma.LZMADecompressor(memlimit=MAX_DICTIONARY)
            else:
                rest = self._file.read(PIECE) if self._coder.needs_input else b""
                if self._coder.needs_input and not rest:
                    raise EOFError("the compressed data end early")
            try:
                data = self._coder.decompress(rest, len(out))
            except lzma.LZMAError as error:
                if "Memory" not in str(error):  # it has no number
                    raise
                raise DataError(f"{self._file.name} takes more than {MAX_DICTIONARY >> 20} MiB of memory to decompress; compress it anew "
                                "with xz -9 or less") from None  # fmt: skip
        out[: len(data)] = data
        return len(data)


CODERS = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lambda file: io.BufferedReader(_Xz(file), PIECE),
    b"\x5d\0\0": lambda file: io.BufferedReader(_Xz(file), PIECE),
}
