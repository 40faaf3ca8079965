"""Levels of more than 8 bits, as microscopes and scanners write them, as 8 bits."""

import numpy as np

from cnnjax.data.bands import bands


def extremes(values: np.ndarray) -> tuple[float, float]:
    """Returns the levels that a thousandth of the pixels are below and above, so that a dead pixel decides nothing.

    Args:
        values: whole or floating-point numbers, finite, of two or three axes, at least one; their order is lost, except of uint16.
    """
    tail = values.size // 1000
    if values.dtype == np.uint16:
        counts = sum(np.bincount(values[rows].ravel(), minlength=2**16) for rows in bands(*values.shape[:2]))
        low, high = np.searchsorted(np.cumsum(counts), (tail + 1, values.size - tail))
        return float(low), float(high)
    every = values.reshape(-1)
    every.partition((tail, every.size - 1 - tail))
    return float(every[tail]), float(every[every.size - 1 - tail])


def check_finite(values: np.ndarray) -> None:
    """Raises ValueError where some of [height, width, ...] are not finite."""
    if values.dtype.kind == "f" and not all(np.isfinite(values[rows]).all() for rows in bands(*values.shape[:2])):
        raise ValueError("floating-point pixels, some of which are not numbers")


def to_bytes(values: np.ndarray, levels: tuple[float, ...], *, narrow: bool, out: np.ndarray | None = None) -> np.ndarray:
    """Returns uint8 of the same shape.

    Args:
        values: whole or floating-point numbers, [height, width] or [height, width, channels].
        levels: what becomes 0 and what becomes 255; (): the high byte of 16 bits is taken.
        narrow: without levels, whole numbers that all fit into 8 bits are taken as they are.
        out: uint8 of the same shape for the result, which may begin where the memory of `values` does; None: a new array.

    Raises:
        ValueError: floating-point numbers without levels.
    """
    if not levels and values.dtype.kind == "f":
        raise ValueError(
            "floating-point pixels; name their black and white, as in --config.image.range=0,1, or save 8 or 16 bits"
        )
    # Pillow would clip 16 bits at 255; the high byte is what 8-bit viewers show.
    shift = 0 if narrow and not levels and values.max(initial=0) <= 255 else 8
    out = np.empty(values.shape, np.uint8) if out is None else out
    for rows in bands(*values.shape[:2]):
        if levels:
            low, high = levels
            out[rows] = np.clip((values[rows].astype(np.float64) - low) * (255 / (high - low)) + 0.5, 0, 255)
        else:
            out[rows] = np.clip(values[rows] >> shift, 0, 255)
    return out
