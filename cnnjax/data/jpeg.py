"""Plain JPEG files through libjpeg-turbo, and the memory that a JPEG file takes."""

import numpy as np
import simplejpeg

from cnnjax.data import limits
from cnnjax.data import pixels as pixels_lib

SIGNATURE = b"\xff\xd8\xff"
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of the segment with the sizes
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_room = pixels_lib.Room()


def header(data: bytes) -> bytes:
    """Returns the segments of a JPEG file up to its compressed pixels; b"" where they do not follow each other."""
    at = 2
    while len(data) >= at + 4 and data[at] == 0xFF != data[at + 1]:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 2] == b"\xff\xda":
            return data[:at]
    return b""


def coefficients(data: bytes, before: bytes, layers: int) -> float:
    """Returns the bytes a pixel of the coefficients that the decoder keeps where a picture comes in several scans, else 0.

    Args:
        data: the file.
        before: its `header`; b"": the worst is assumed.
        layers: colours.
    """
    at = 2
    while at + 10 <= len(before):
        if before[at + 1] in FRAMES:
            parts = [before[i] for i in range(at + 11, min(at + 10 + 3 * before[at + 9], len(before)), 3)]
            areas = [(part >> 4) * (part & 15) for part in parts] or [1]
            widest = max(part >> 4 for part in parts or [0x11]) * max(part & 15 for part in parts or [0x11])
            several = before[at + 1] in PROGRESSIVE or data[len(before) + 4 : len(before) + 5] != bytes([len(parts)])
            return 2 * sum(areas) / max(widest, 1) if several else 0
        at += 2 + int.from_bytes(before[at + 2 : at + 4], "big")
    return 2 * layers


def size(data: bytes) -> tuple[int, int] | None:
    """Returns height and width in pixels of a file of three colours; None for another one."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colours == "YCbCr" else None


def decode(data: bytes, before: bytes, least: tuple[int, int] = (0, 0)) -> np.ndarray | None:
    """Decodes a file of three colours, which nothing turns, by libjpeg-turbo, which Pillow has inside as well.

    Args:
        data: the file.
        before: its `header`.
        least: height and width, in pixels, that are enough: a smaller picture of half the size or less may be decoded; zeros: the whole.

    Returns:
        uint8 [height, width, 3], which this thread's next call overwrites; None: another kind, damage, too large or any doubt.
    """
    try:
        if (found := size(data)) is None:
            return None
        height, width = found
        limits.check(width, height, "RGB", 3 + coefficients(data, before, 3))
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=least[0], min_width=least[1], buffer=_room.bytes(3 * height * width)
        )
    except (ValueError, MemoryError):
        return None
