"""Levels of more than 8 bits, as microscopes and scanners write them, as 8 bits."""

import io

import numpy as np
from PIL import Image

BITS_PER_SAMPLE = 258  # tag of TIFF


def extremes(values: np.ndarray) -> tuple[float, float]:
    """Returns the levels that a thousandth of the pixels are below and above, so that a dead pixel decides nothing.

    Args:
        values: whole or floating-point numbers of any shape, at least one.

    Raises:
        ValueError: some are not numbers.
    """
    if not np.isfinite(values).all():
        raise ValueError("floating-point pixels, some of which are not numbers")
    every = values.ravel()
    tail = every.size // 1000
    parted = np.partition(every, (tail, every.size - 1 - tail))
    return float(parted[tail]), float(parted[every.size - 1 - tail])


def to_bytes(values: np.ndarray, levels: tuple[float, ...], *, narrow: bool) -> np.ndarray:
    """Returns uint8 of the same shape.

    Args:
        values: whole or floating-point numbers.
        levels: what becomes 0 and what becomes 255; (): the high byte of 16 bits is taken.
        narrow: without levels, whole numbers that all fit into 8 bits are taken as they are.

    Raises:
        ValueError: floating-point numbers without levels.
    """
    if levels:
        low, high = levels
        return np.clip((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    if values.dtype.kind == "f":
        raise ValueError(
            "floating-point pixels; name their black and white, as in --config.image.range=0,1, or save 8 or 16 bits"
        )
    wide = values.astype(np.int64)  # Pillow would clip 16 bits at 255; the high byte is what 8-bit viewers show
    return np.clip(wide if narrow and wide.max(initial=0) <= 255 else wide >> 8, 0, 255).astype(np.uint8)


def colours(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Returns the colours of a TIFF file of more than 8 bits, of which Pillow keeps the high byte, and mixes up separate planes.

    Args:
        data: the file.
        image: opened by Pillow.

    Returns:
        uint16 [height, width, 3]; None for another file, or one in a compression that tifffile does not know by itself.
    """
    if image.format != "TIFF" or image.mode not in ("RGB", "RGBA") or max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) <= 8:
        return None
    import tifffile

    try:
        values = tifffile.imread(io.BytesIO(data), key=0)
    except Exception:  # as `images` of what it opens
        return None
    values = np.moveaxis(values, 0, -1) if values.shape[-2:] == image.size[::-1] else values
    return values[..., :3] if values.dtype == np.uint16 and values.shape[:2] == image.size[::-1] else None
