"""The resize of decoded pixels, by the methods of `image.resize`."""

import numpy as np
from PIL import Image

from cnnjax.data import bands
from cnnjax.data import pixels as pixels_lib

SIDE = 32  # pixels of the small copies by which the same picture is found


def resize(pixels: np.ndarray, size: int | tuple[int, int], method: str, out: np.ndarray | None = None) -> np.ndarray:
    """Resizes uint8 [height, width, 3] to `out`, or a new array of `size`; sizes and methods as in `images.decode_resized`."""
    sides = (size, size) if isinstance(size, int) else size
    out = np.empty((*sides, 3), np.uint8) if out is None else out
    RESIZES[method](pixels, out)
    return out


def averaged(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [height, width, 3] averaged over areas, uint8 [32, 32, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))


def _bilinear(pixels: np.ndarray, out: np.ndarray) -> None:
    """Pillow's BILINEAR, a triangle filter as wide as the reduction."""
    if pixels_lib.available():
        pixels_lib.resize(pixels, out)
    else:
        _filtered(pixels, out, Image.Resampling.BILINEAR)


def _bicubic(pixels: np.ndarray, out: np.ndarray) -> None:
    """Pillow's BICUBIC, Keys' filter with a = -0.5, as wide as the reduction; timm's transforms use it."""
    _filtered(pixels, out, Image.Resampling.BICUBIC)


def _filtered(pixels: np.ndarray, out: np.ndarray, resampling: Image.Resampling) -> None:
    """A resize by Pillow: rows first, then columns, whatever Pillow would begin with."""
    between = np.empty((pixels.shape[0], out.shape[1], 3), np.uint8)
    for rows in bands.bands(*pixels.shape[:2]):
        band = Image.fromarray(pixels[rows])
        between[rows] = np.asarray(band.resize((out.shape[1], band.height), resampling))
    for columns in bands.bands(*between.shape[1::-1]):
        band = Image.fromarray(between[:, columns])
        out[:, columns] = np.asarray(band.resize((band.width, out.shape[0]), resampling))


def _nearest(pixels: np.ndarray, out: np.ndarray) -> None:
    """Pillow's NEAREST, which is asked for the rows and columns alone."""
    rows, columns = (
        np.asarray(Image.fromarray(np.arange(own, dtype=np.int32)[None]).resize((wanted, 1), Image.Resampling.NEAREST))[0]
        for own, wanted in zip(pixels.shape[:2], out.shape[:2], strict=True)
    )
    out[:] = pixels[rows[:, None], columns]


def _pad(pixels: np.ndarray, out: np.ndarray) -> None:
    """Bilinear with the aspect kept, centred on black."""
    out[:] = 0
    _bilinear(pixels, out[_centred(pixels.shape[:2], out.shape[:2])])


def _centred(own: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    scale = min(shape[0] / own[0], shape[1] / own[1])
    sides = [max(round(side * scale), 1) for side in own]
    return tuple(slice((whole - side) // 2, (whole - side) // 2 + side) for whole, side in zip(shape, sides, strict=True))


def shown_part(own: tuple[int, int], shape: tuple[int, int], method: str) -> tuple[slice, slice]:
    """Returns the rows and columns of a resized image that show something of the file: for `pad` those without the black.

    Args:
        own: height and width of the file's image.
        shape: height and width of the resized image.
        method: as in `images.decode_resized`.
    """
    return _centred(own, shape) if method == "pad" else (slice(0, shape[0]), slice(0, shape[1]))


# uint8 [h, w, 3] -> all of uint8 [height, width, 3]
RESIZES = {"bilinear": _bilinear, "bicubic": _bicubic, "nearest": _nearest, "pad": _pad}
