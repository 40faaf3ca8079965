"""Zip archives: the members in their directory, and how to read one of them, in bounded memory."""

import bz2
import dataclasses
import functools
import io
import lzma
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from cnnjax.data.limits import MAX_BYTES, MAX_DICTIONARY

PART = 2**20  # bytes of the directory that are parsed at once: `ZipFile` keeps a kilobyte for each member
ZIP_PLACE = {"file_size": "uint64", "CRC": "uint32", "header_offset": "int64", "compress_size": "uint64",
             "flag_bits": "uint16", "compress_type": "uint16"}  # fmt: skip
READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
METHODS = {9: "deflate64", 93: "zstd", 95: "xz", 98: "PPMd"}  # that programs write, and that are not read


@dataclasses.dataclass(frozen=True, slots=True)
class ZipReference:
    """A member of a zip archive.

    Attributes:
        archive: path of it.
        member: name, as the directory has it.
        place: values of `ZIP_PLACE`.
    """

    archive: str
    member: str
    place: tuple[int, ...]

    def read(self) -> bytes:
        """Returns the file, of the size that the directory declares.

        Raises:
            ValueError: another size.
            RuntimeError: it is encrypted.
            NotImplementedError: a method of compression that cannot be read.
            zipfile.BadZipFile: a damaged member, or one that is another file than the directory says.
        """
        info = zipfile.ZipInfo(self.member)
        for name, value in zip(ZIP_PLACE, self.place, strict=True):
            setattr(info, name, value)
        if info.flag_bits & 1:
            raise RuntimeError(f"File {self.member!r} is encrypted, password required for extraction")
        if info.compress_type not in READ:
            name = METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise NotImplementedError(f"compressed with {name}; write the archive anew with deflate")
        if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with _opened(self.archive).open(info) as file:
                data = file.read(
                    info.file_size
                )  # without a number it decompresses what is there, whatever the directory says
        else:
            data = self._bounded(info)
        if len(data) != info.file_size:
            raise ValueError(f"it has {len(data):,} bytes, and the directory of the archive says {info.file_size:,}")
        return data

    def _bounded(self, info: zipfile.ZipInfo) -> bytes:
        """Returns a member compressed with bzip2 or LZMA, which `zipfile` decompresses without a limit."""
        if info.compress_size > MAX_BYTES:
            raise ValueError(f"{info.compress_size:,} compressed bytes, more than {MAX_BYTES:,}")
        raw = zipfile.ZipInfo(self.member)  # without a CRC nothing is compared
        raw.header_offset, raw.file_size, raw.compress_size = info.header_offset, info.compress_size, info.compress_size
        with _opened(self.archive).open(raw) as file:
            data = file.read(info.compress_size)
        if info.compress_type == zipfile.ZIP_BZIP2:
            coder = bz2.BZ2Decompressor()
        else:  # the five bytes of properties after a version and their number are those of an .lzma file
            length = -1 if info.flag_bits & 2 else info.file_size  # -1: a mark ends the data
            coder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_DICTIONARY)
            data = data[4:9] + struct.pack("<q", length) + data[9:]
        data = coder.decompress(data, max(info.file_size, 1))
        if zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self.member!r}")
        return data


@functools.lru_cache(maxsize=4)
def _opened(archive: str) -> zipfile.ZipFile:
    """Reads members that it is told where to find; it knows of none, for a directory takes a kilobyte for each."""
    opened = zipfile.ZipFile(io.BytesIO(_end(0, 0)))
    opened.fp = open(archive, "rb")  # noqa: SIM115
    weakref.finalize(opened, opened.fp.close)
    return opened


def _end(count: int, size: int) -> bytes:
    """Returns the end of a zip archive whose directory has `count` members in `size` bytes."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, 0, 0)


def read_directory(file: BinaryIO) -> Iterator[zipfile.ZipInfo]:
    """Yields the members that an archive has by its directory, a part of it at a time.

    Raises:
        zipfile.BadZipFile: a directory that is damaged, outside the file, or of another number of members than it says.
    """
    end = zipfile._EndRecData(file)  # private: the search for the end that `is_zipfile` has made
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    said, left, given = end[4:7]
    start = end[9] - left - (76 if end[0] == b"PK\6\6" else 0)  # bytes of the end of a large archive (ZIP64)
    if start < 0:
        raise zipfile.BadZipFile("Bad offset for central directory")
    file.seek(start)
    found = 0
    while left > 0:
        part, count = bytearray(), 0
        while left > 0 and count < 1000 and len(part) < PART:
            head = file.read(46)
            if len(head) < 46:
                raise zipfile.BadZipFile("Truncated central directory")
            entry = head + file.read(sum(struct.unpack_from("<3H", head, 28)))  # name, extra field, comment
            part += entry
            left, count = left - len(entry), count + 1
        for info in zipfile.ZipFile(io.BytesIO(part + _end(count, len(part)))).infolist():
            info.header_offset += start - given  # where something stands before the archive
            yield info
        found += count
    if (found - said) % 2**16:  # some programs write the lower 16 bits of the number only
        raise zipfile.BadZipFile(f"its directory says {said:,} members and has {found:,}")


def overlapping(offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns which members share bytes with one before them in the file, bool [n], as those of zip bombs do.

    Args:
        offsets: bytes before each member, int64 [n].
        sizes: compressed bytes of each, uint64 [n].
    """
    order = np.argsort(offsets, kind="stable")
    ends = np.maximum.accumulate(offsets[order].astype(float) + 30 + sizes[order])  # 30: the header without its name
    shared = np.zeros(len(offsets), bool)
    shared[order[1:]] = offsets[order[1:]] < ends[:-1]
    return shared
