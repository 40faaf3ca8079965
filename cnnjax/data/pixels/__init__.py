"""Plain PNG files and Pillow's bilinear resize, compiled when the package is installed; the same pixels as Pillow's, sooner.

Where `available` says no, for want of a compiler, and for every other PNG file Pillow does the work. The calls release the
interpreter, and threads may make them at once.
"""

import ctypes
import functools
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


class _Inflater(ctypes.Structure):
    """`Inflater` of pixels.h."""

    NAMES = ("alloc_decompressor", "free_decompressor", "zlib_decompress", "crc32")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


def available() -> bool:
    """Returns whether the functions can be used on this machine."""
    return _library() is not None


def decode(file: bytes) -> np.ndarray | None:
    """Decodes a plain file: PNG of 8-bit RGB, without chunks that could change a pixel.

    Returns:
        uint8 [height, width, 3], equal to Pillow's; None: another kind, damage or any doubt.
    """
    size, inflater = (ctypes.c_int32 * 2)(), _inflater()
    if inflater is None or not _library().cnnjax_decode(file, len(file), inflater, size):
        return None
    out = np.empty((*size, 3), np.uint8)
    _library().cnnjax_copy(_address(out))
    return out


def decode_resized(files: list[bytes], out: np.ndarray, pad: bool) -> list[list[int]]:
    """Decodes and resizes plain files in one call, because threads that return to the interpreter for each file wait for it.

    Args:
        files: n files, encoded; b"" is left out.
        out: uint8 [n, size, size, 3], contiguous; gets the pixels.
        pad: keeps the aspect, centred on black.

    Returns:
        Height and width of each file; zeros where it is left to others.
    """
    assert out.flags.c_contiguous and out.dtype == np.uint8 and out.shape[0] == len(files) and out.shape[3] == 3
    count, found = len(files), np.zeros((len(files), 2), np.int32)
    if (inflater := _inflater()) is not None:
        starts, sizes = (ctypes.c_char_p * count)(*files), (ctypes.c_long * count)(*map(len, files))
        _library().cnnjax_decode_resized(count, starts, sizes, inflater, out.shape[1], pad, _address(out), _address(found))
    return found.tolist()


def resize(pixels: np.ndarray, out: np.ndarray) -> None:
    """Resizes as Pillow's BILINEAR, bit for bit.

    Args:
        pixels: uint8 [h, w, 3], at least 1 by 1; its rows may have gaps between them.
        out: uint8 [height, width, 3], gets the result; its rows may have gaps as well.

    Raises:
        MemoryError: no memory.
    """
    if pixels.strides[1:] != (3, 1) or pixels.strides[0] < 0:
        pixels = np.ascontiguousarray(pixels)
    assert out.strides[1:] == (3, 1) and out.dtype == pixels.dtype == np.uint8
    if _library().cnnjax_resize(_address(pixels), pixels.strides[0], *pixels.shape[:2], _address(out), out.strides[0],
                                *out.shape[:2]):  # fmt: skip
        raise MemoryError


def _address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


@functools.cache
def _inflater() -> ctypes.Array | None:
    """libdeflate, as the package `deflate` brings it; None: PNG files are left to Pillow."""
    try:
        library = ctypes.CDLL(importlib.util.find_spec("deflate._deflate").origin)
        functions = [ctypes.cast(getattr(library, f"libdeflate_{name}"), ctypes.c_void_p) for name in _Inflater.NAMES]
    except (ImportError, AttributeError, OSError):
        return None
    return ctypes.pointer(_Inflater(*functions))


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library; None where there is none, or one that is older than its sources."""
    try:
        library = ctypes.CDLL(str(FOLDER / "images.so"))
        library.cnnjax_sources.restype = ctypes.c_char_p
        sources = b"".join(path.read_bytes() for path in sorted([*FOLDER.glob("*.cc"), *FOLDER.glob("*.h")]))
        if library.cnnjax_sources().decode() != hashlib.sha256(sources).hexdigest():
            return None
        pointer, number = ctypes.c_void_p, ctypes.c_long
        library.cnnjax_decode.argtypes = [ctypes.c_char_p, number, pointer, pointer]
        library.cnnjax_decode_resized.argtypes = [number, *[pointer] * 3, number, ctypes.c_int, pointer, pointer]
        library.cnnjax_decode_resized.restype = None
        library.cnnjax_copy.argtypes, library.cnnjax_copy.restype = [pointer], None
        library.cnnjax_resize.argtypes = [pointer, number, number, number, pointer, number, number, number]
    except (OSError, AttributeError):  # none, or none of ours
        return None
    return library
