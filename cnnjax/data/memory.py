"""The memory that Pillow takes for a picture, from what its file declares; docs/limits.md has the measurements."""

import struct

from PIL import Image

from cnnjax.data import jpeg, limits, tiff

CORE = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 2,
    "I;16B": 2,
    "I;16L": 2,
    "I;16N": 2,
}  # bytes a pixel of Pillow's images; of others 4
RESULT = 3
# Bytes a pixel at the peak of decoding, where a format's decoder needs more than the image itself: of grey, of colours, with alpha.
DECODERS = {"WEBP": (17, 17, 17), "AVIF": (14, 16, 17), "HEIF": (8, 8, 13), "JPEG2000": (9, 20, 25)}
HEIF_OF_ALL_COLOURS = 21  # HEIC that keeps more of the colours than every second of rows and columns
COPIES = {"WEBP": 2, "AVIF": 2, "HEIF": 2, "JPEG": 1, "MPO": 1}  # of the file
PYTHON = 3  # copies of the pixels by those decoders of Pillow that are written in Python


def check_header(data: bytes) -> None:
    """Checks the formats for which Pillow takes memory when it opens them.

    Raises:
        ImageError: too large.
    """
    if data[:4] == b"RIFF" and data[8:15] == b"WEBPVP8":
        kind, head = data[12:16], data[:30].ljust(30, b"\0")
        if kind == b"VP8X":
            width, height = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        elif kind == b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        else:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
        limits.check(width, height, "RGB", DECODERS["WEBP"][1], COPIES["WEBP"] * len(data))
    elif data[:4] == b"\x89PNG" and b"acTL" in data:  # of the first frame of a film Pillow keeps copies
        width, height = struct.unpack_from(">II", data, 16)
        limits.check(width, height, "RGBA", 12, len(data))
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        tiff.check_tags(data)


def check(image: Image.Image, data: bytes, more: int = 0) -> None:
    """Checks a picture that Pillow has opened and not decoded yet.

    Args:
        image: opened.
        data: its file.
        more: bytes that are needed in addition.

    Raises:
        ImageError: no pixels, or too large.
    """
    mode, core = image.mode, CORE.get(image.mode, 4)
    load = core
    if image.format in DECODERS:
        load = DECODERS[image.format][2 if mode in ("RGBA", "LA", "PA") else min(len(image.getbands()) - 1, 1)]
        if image.format == "HEIF" and image.info.get("chroma") != 420:
            load = HEIF_OF_ALL_COLOURS
    elif image.format in ("JPEG", "MPO"):
        load += jpeg.coefficients(data, jpeg.header(data), len(image.getbands()))
    elif image.format in ("PPM", "BMP") and any(tile[0] != "raw" for tile in image.tile):
        load += PYTHON * core
    elif image.format == "TIFF":
        load *= 1 if image.tag_v2.get(tiff.ORIENTATION, 1) == 1 else 2  # Pillow turns it in a copy
        load += tiff.piece_bytes(image) / max(image.width * image.height, 1)
    after = core + 4 if mode.startswith("I") or mode == "F" else core + RESULT
    limits.check(*image.size, mode, max(load, after), more + COPIES.get(image.format, 0) * len(data))
