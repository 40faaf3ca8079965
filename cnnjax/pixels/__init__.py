"""Rows of 8-bit RGB: the filters of PNG undone, and Pillow's bilinear resize, compiled when the package is installed.

Where `available` says no, for want of a compiler, Pillow and others do the work. The calls release the interpreter.
"""

import ctypes
import functools
import hashlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def available() -> bool:
    """Whether the functions can be used on this machine."""
    return _library() is not None


def unfilter(rows: bytearray, height: int, width: int) -> np.ndarray | None:
    """Undoes the filters of an 8-bit RGB PNG without interlace, in place.

    Args:
        rows: what the image data inflate to: for each row a byte with the filter and `width` pixels.
        height, width: of the image, at least 1.

    Returns:
        uint8 [height, width, 3], a view of `rows` with a gap between its rows; None where a filter is none of the five.
    """
    values = np.frombuffer(rows, np.uint8).reshape(height, 3 * width + 1)
    if _library().cnnjax_unfilter(_address(values), height, width):
        return None
    return values[:, 1:].reshape(height, width, 3)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's BILINEAR, within one level of 255.

    Args:
        pixels: uint8 [h, w, 3], at least 1 by 1; its rows may have gaps between them.
        height, width: of the result.

    Returns:
        uint8 [height, width, 3].
    """
    if pixels.strides[1:] != (3, 1) or pixels.strides[0] < 0:
        pixels = np.ascontiguousarray(pixels)
    out = np.empty((height, width, 3), np.uint8)
    failed = _library().cnnjax_resize(_address(pixels), pixels.strides[0], *pixels.shape[:2], _address(out), height, width)
    if failed:
        raise MemoryError("no memory to resize an image")
    return out


def _address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """None where there is no library, or one that is older than its source."""
    try:
        library = ctypes.CDLL(str(FOLDER / "rgb.so"))
        library.cnnjax_sources.restype = ctypes.c_char_p
        if library.cnnjax_sources().decode() != hashlib.sha256((FOLDER / "rgb.cc").read_bytes()).hexdigest():
            return None
        pointer, number = ctypes.c_void_p, ctypes.c_long
        library.cnnjax_unfilter.argtypes = [pointer, number, number]
        library.cnnjax_resize.argtypes = [pointer, number, number, number, pointer, number, number]
    except (OSError, AttributeError):  # none, or none of ours
        return None
    return library
