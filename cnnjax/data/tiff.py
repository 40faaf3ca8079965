"""TIFF files: what a picture takes in memory by its tags, and colours of more than 8 bits."""

import io
import lzma
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.data import limits

WIDTH, BITS_PER_SAMPLE, SAMPLES, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 256, 258, 277, 278, 322, 323  # tags
LENGTH, PHOTOMETRIC, PLANES, ORIENTATION, SAMPLE_FORMAT = 257, 262, 284, 274, 339
LUMA_AND_CHROMA = 6
SIZES = frozenset({WIDTH, LENGTH, BITS_PER_SAMPLE, SAMPLES, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH, PLANES, SAMPLE_FORMAT})
NONE, DEFLATE, PACKBITS, LZMA = 1, (8, 32946), 32773, 34925  # compressions that tifffile knows by itself


def check_tags(data: bytes) -> None:
    """Raises ImageError where a tag with a size is given twice: one decoder would check the last and another use the first."""
    order, wide = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    start = struct.unpack_from(order + ("Q" if wide else "I"), data, 8 if wide else 4)[0]
    count = struct.unpack_from(order + ("Q" if wide else "H"), data, start)[0]
    first, step = start + (8 if wide else 2), 20 if wide else 12
    seen = set()
    for at in range(first, min(first + step * count, len(data) - 1), step):
        tag = struct.unpack_from(order + "H", data, at)[0]
        if tag in SIZES and tag in seen:
            raise limits.ImageError(f"damaged: tag {tag} of the TIFF file is given twice; save the picture again")
        seen.add(tag)


def piece_bytes(image: Image.Image) -> int:
    """Returns the bytes of a strip or tile of an opened file without its compression, by its tags."""
    tags: Any = image.tag_v2
    bits, samples = max(tags.get(BITS_PER_SAMPLE, (8,))), max(tags.get(SAMPLES, 1), len(tags.get(BITS_PER_SAMPLE, (8,))))
    width = tags.get(TILE_WIDTH, tags[WIDTH])
    rows = tags[TILE_LENGTH] if TILE_LENGTH in tags else min(tags.get(ROWS_PER_STRIP, tags[LENGTH]), tags[LENGTH])
    together = 1 if tags.get(PLANES, 1) == 2 else samples
    # libtiff turns luma and chroma into four bytes a pixel of a piece.
    return -(-width * rows * together * bits // 8) + (4 * width * rows if tags.get(PHOTOMETRIC) == LUMA_AND_CHROMA else 0)


def is_deep(image: Image.Image) -> bool:
    """Returns whether an opened image is a TIFF file of colours of more than 8 bits, of which Pillow keeps the high byte."""
    return image.format == "TIFF" and image.mode in ("RGB", "RGBA") and max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8


def colours(data: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Reads a file for which `is_deep` holds through tifffile; Pillow also mixes up separate planes.

    Args:
        data: the file.
        size: width and height.

    Returns:
        uint16 [height, width, 3], and uint8 of the same shape in their memory, which a loop over rows may write to, or None; instead of
        both None for a file in a compression that tifffile does not know by itself.

    Raises:
        ImageError: more than `limits.MAX_MEMORY`.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.dtype != np.uint16 or page.compression not in (NONE, *DEFLATE, PACKBITS, LZMA):
                return None
            _check(page, data, size)
            values = page.asarray(maxworkers=1, buffersize=limits.MEGABYTE)
    except limits.ImageError:
        raise
    except Exception:  # as `images` of what it opens
        return None
    height, width = size[::-1]
    if values.shape[-2:] == (height, width):
        values, out = np.moveaxis(values, 0, -1), None
    else:
        out = (
            values.reshape(-1).view(np.uint8)[: 3 * height * width].reshape(height, width, 3)
            if values.flags.owndata
            else None
        )
    return (values[..., :3], out) if values.shape[:2] == (height, width) else None


def _check(page: Any, data: bytes, size: tuple[int, int]) -> None:
    """Raises ImageError for a page whose array, with what its largest strip or tile can become, is more than is allowed."""
    planes = page.planarconfig == 2
    given = page.nbytes + (3 * size[0] * size[1] if planes else 0)  # planes have no room for the result in their own memory
    limits.check(*size, "RGB;16", 0, given)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        piece, left = memoryview(data)[offset : offset + count], (limits.MAX_MEMORY - limits.ROWS - given) // 2
        if page.compression in DEFLATE:
            most = limits.inflated(zlib.decompressobj(), piece, left)
        elif page.compression == LZMA:
            most = limits.inflated(lzma.LZMADecompressor(), piece, left)
        else:
            most = count * (64 if page.compression == PACKBITS else 1)
        limits.check(*size, "RGB;16", 0, given + 2 * most)  # twice: a predictor is undone in a copy
