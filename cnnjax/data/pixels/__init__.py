"""Plain PNG files, Pillow's bilinear resize and statistics of pixels, compiled when the package is installed; Pillow's pixels, sooner.

Where `available` says no, for want of a compiler, and for every other PNG file Pillow does the work. The calls release the
interpreter, and threads may make them at once.
"""

import ctypes
import functools
import hashlib
import importlib.util
import itertools
import struct
import threading
from pathlib import Path

import numpy as np

from cnnjax.data.limits import most_pixels

FOLDER = Path(__file__).parent
LARGE = 2**25  # bytes that a thread does not keep from one image to the next
BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
RGB = b"\x08\x02\0\0\0"  # 8 bits, red, green and blue, without interlace


class _Inflater(ctypes.Structure):
    """`Inflater` of pixels.h."""

    NAMES = ("inflateInit_", "inflateReset", "inflate", "inflateEnd", "crc32")
    _fields_ = [(name, ctypes.c_void_p) for name in NAMES]


def available() -> bool:
    """Returns whether the functions can be used on this machine."""
    return _library() is not None


def decode(files: list, most: int = 2**62) -> list[np.ndarray | None]:
    """Decodes plain files: PNG of 8-bit RGB, without chunks that could change a pixel.

    One call for many, because threads that return to the interpreter for each file wait for it.

    Args:
        files: encoded files, or anything else.
        most: bytes of all pixels and of what is needed beside them; what has no room is left out.

    Returns:
        uint8 [height, width, 3] of each, equal to Pillow's; None: another kind, damage or any doubt. This thread's next call
        overwrites them.
    """
    found: list[np.ndarray | None] = [None] * len(files)
    shapes = [(i, *_shape(file)) for i, file in enumerate(files)] if available() and _inflater() else []
    ends = list(itertools.accumulate(_needed(height, width) for _, height, width in shapes))
    # A size that deflate cannot give so few bytes is a mere claim.
    chosen = [(*shape, end) for shape, end in zip(shapes, ends, strict=True)
              if shape[1] and end <= most and 3 * shape[1] * shape[2] < 1100 * len(files[shape[0]])]  # fmt: skip
    if not chosen:
        return found
    memory, count = _room.bytes(max(end for *_, end in chosen) + 1), len(chosen)
    starts_at = [end - _needed(height, width) for _, height, width, end in chosen]
    outs = [memory[at : at + 3 * height * width].reshape(height, width, 3)
            for at, (_, height, width, _) in zip(starts_at, chosen, strict=True)]  # fmt: skip
    starts = (ctypes.c_char_p * count)(*(files[i] for i, *_ in chosen))
    sizes = (ctypes.c_long * count)(*(len(files[i]) for i, *_ in chosen))
    sides = (ctypes.c_long * (2 * count))(*itertools.chain.from_iterable(out.shape[:2] for out in outs))
    done = (ctypes.c_bool * count)()
    _library().cnnjax_decode(count, starts, sizes, _inflater(), sides, (ctypes.c_void_p * count)(*map(_address, outs)), done)
    for (i, *_), out, whole in zip(chosen, outs, done, strict=True):
        found[i] = out if whole else None
    return found


def _shape(file: bytes) -> tuple[int, int]:
    """Height and width of a file that begins as a plain one does; zeros of others, and of more than `most_pixels`."""
    if not isinstance(file, bytes) or file[:16] != BEGINNING or file[24:29] != RGB:
        return 0, 0
    width, height = struct.unpack(">II", file[16:24])
    return (height, width) if 0 < width * height <= most_pixels() else (0, 0)


def _needed(height: int, width: int) -> int:
    """Returns the bytes for an image's pixels, the filters of its rows, and the three rows that lie between what is read and written."""
    return height * (3 * width + 1) + 9 * width


class Room(threading.local):
    """Memory of each thread for one image after the other: new memory costs a fifth of decoding into it."""

    _kept = np.empty(0, np.uint8)

    def bytes(self, size: int) -> np.ndarray:
        """At least `size` bytes, uint8. The thread's next call gives them again."""
        if len(self._kept) >= size:
            return self._kept
        room = np.empty(size, np.uint8)
        if size <= LARGE:
            self._kept = room
        return room


_room = Room()


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


def statistics(images: np.ndarray) -> np.ndarray:
    """Returns statistics of pixels, float64 [n, 18], as `cnnjax.data.pixel_statistics` describes them.

    Args:
        images: uint8 [n, height, width, 3], at least 3 by 3 pixels.

    Raises:
        MemoryError: no memory.
    """
    images, out = np.ascontiguousarray(images), np.empty((len(images), 18))
    assert images.dtype == np.uint8 and images.shape[3] == 3 and min(images.shape[1:3]) >= 3
    if _library().cnnjax_statistics(_address(images), *images.shape[:3], _address(out)):
        raise MemoryError
    return out


def _address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


@functools.cache
def _inflater() -> ctypes.Array | None:
    """zlib-ng, as the package of that name brings it; None: PNG files are left to Pillow."""
    try:
        library = ctypes.CDLL(importlib.util.find_spec("zlib_ng.zlib_ng").origin)
        functions = [ctypes.cast(getattr(library, f"zng_{name}"), ctypes.c_void_p) for name in _Inflater.NAMES]
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
        library.cnnjax_decode.argtypes, library.cnnjax_decode.restype = [number, *[pointer] * 6], None
        library.cnnjax_statistics.argtypes = [pointer, number, number, number, pointer]
        library.cnnjax_resize.argtypes = [pointer, number, number, number, pointer, number, number, number]
    except (OSError, AttributeError):  # none, or none of ours
        return None
    return library
