"""Limits of a file and of its decoding, checked before memory is taken. docs/limits.md has the measurements."""

import threading
from typing import Any

MEGABYTE = 2**20
MAX_BYTES = 2**29  # 536 MB; the largest picture that is decoded, 134 megapixels, takes 403 MB without compression
MAX_DICTIONARY = 2**28  # bytes that a decoder of xz or LZMA may take: `xz -9` asks for 65 MiB, and 4 GiB are possible
MAX_PIXELS = 2**27  # 134 megapixels: beyond every camera
MAX_MEMORY = 400 * MEGABYTE  # for decoding one picture, beside its file: 2**27 pixels of three bytes, and rows
ROWS = 8 * MEGABYTE  # of which are the rows that are worked on at a time
MAX_SIDE = 2**18  # the weights of the resize take 24 bytes for each row and column; JPEG and GIF end at 2**16


_own = threading.local()


class ImageError(ValueError):
    """Bytes that are not an image that can be used; the message is the reason, for quarantine.csv."""


def check_file(size: int) -> None:
    """Raises ImageError for an encoded file of more than `MAX_BYTES` bytes."""
    if size > MAX_BYTES:
        raise ImageError(
            f"a file of {size // MEGABYTE:,} MB, more than {MAX_BYTES // MEGABYTE} MB; save the picture smaller"
        )


def narrow(pixels: int) -> None:
    """Sets the most pixels of a picture that this thread decodes from now on, where that is fewer than `MAX_PIXELS`."""
    _own.pixels = pixels


def most_pixels() -> int:
    """Returns the most pixels of a picture that this thread decodes."""
    return min(getattr(_own, "pixels", MAX_PIXELS), MAX_PIXELS)


def check(width: int, height: int, mode: str, bytes_a_pixel: float, more: int = 0) -> None:
    """Checks the declared size of a picture.

    Args:
        width: pixels.
        height: pixels.
        mode: Pillow's name of the kind of pixels, for the message.
        bytes_a_pixel: memory that decoding takes at its peak, beside the file.
        more: bytes that do not depend on the pixels.

    Raises:
        ImageError: no pixels, too many, too long a side, or more than `MAX_MEMORY`.
    """
    size = f"{width}x{height} pixels"
    if min(width, height) < 1:
        raise ImageError(f"no pixels ({width}x{height})")
    if width * height > (most := most_pixels()):
        raise ImageError(f"{size}, more than {most:,}; save the picture smaller")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{size}, more than {MAX_SIDE:,} in a row or column; save the picture smaller")
    if (need := int(width * height * bytes_a_pixel) + more + ROWS) > MAX_MEMORY:
        raise ImageError(
            f"{size} in mode {mode} take {-(-need // MEGABYTE)} MB, more than {MAX_MEMORY // MEGABYTE} MB; save the picture smaller"
        )


def inflated(decompressor: Any, data: memoryview, most: int) -> int:
    """Returns the bytes that a compressed stream becomes.

    Args:
        decompressor: a new one, of `zlib` or `lzma`.
        data: the stream.
        most: where to stop counting. A short stream is not counted: it is taken to become 1032 times its size, the most of deflate.
    """
    if hasattr(decompressor, "unconsumed_tail") and 1032 * len(data) <= most:
        return 1032 * len(data)
    found = 0
    for at in range(0, len(data), 2**14):
        rest = data[at : at + 2**14]
        while found <= most and not decompressor.eof:
            found += (more := len(decompressor.decompress(rest, MEGABYTE)))
            rest = getattr(decompressor, "unconsumed_tail", b"")
            if more < MEGABYTE and not rest:
                break
    return found
