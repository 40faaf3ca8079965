"""Pixels of Pillow's images as arrays, some rows at a time, so that no second copy of a whole picture is made."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image

BAND = 2**18  # pixels at a time

TURNS = dict(
    zip(range(2, 9), (Image.Transpose(number) for number in (0, 3, 1, 5, 4, 6, 2)), strict=True)
)  # EXIF orientation -> what undoes it
# EXIF orientation -> the upright array seen as the file stores it.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


def bands(height: int, width: int) -> Iterator[slice]:
    """Yields slices of rows that together are all rows, of about `BAND` pixels each."""
    rows = max(BAND // width, 1)
    yield from (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 where nothing turns; other tags are not looked at, so that an odd one does no harm."""
    with contextlib.suppress(Exception):  # damaged metadata of a picture that is whole
        found = image.getexif().get(ExifTags.Base.Orientation)
        return found if isinstance(found, int) and found in STORED else 1
    return 1


def upright(image: Image.Image) -> Image.Image:
    """Returns an image turned and mirrored as its EXIF says."""
    turn = orientation(image)
    return image if turn == 1 else image.transpose(TURNS[turn])


def values(image: Image.Image) -> np.ndarray:
    """Returns the levels [height, width] of a loaded grey image of more than 8 bits, upright, in its own type."""
    return _upright(image, lambda band: band, ())


def rgb(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a loaded image, upright, transparency laid over white: uint8 [height, width, 3]."""
    empty = image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    # Some programs leave the fourth byte empty.
    return _upright(image, (lambda band: band.convert("RGB")) if empty else _to_rgb, (3,))


def _upright(image: Image.Image, convert: Callable[[Image.Image], Image.Image], channels: tuple[int, ...]) -> np.ndarray:
    """All bands of an image, converted and turned."""
    turn, out = orientation(image), None
    for rows in bands(image.height, image.width):
        whole = rows.stop - rows.start == image.height
        part = convert(image if whole else image.crop((0, rows.start, image.width, rows.stop)))
        band = np.asarray(part if turn == 1 else part.transpose(TURNS[turn]))
        if out is None:
            if whole and channels:
                return band
            out = np.empty((*(image.size if turn > 4 else image.size[::-1]), *channels), band.dtype.newbyteorder("="))
        if turn == 1:
            out[rows] = band
        else:  # the rows as the file stores them, seen upright: a block of `out`
            STORED[{6: 8, 8: 6}.get(turn, turn)](STORED[turn](out)[rows])[:] = band
    return out


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")
