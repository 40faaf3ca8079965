"""Crops of a random part of a file's image, before it is resized: all detail that the file has is used."""

import dataclasses
import math

import numpy as np

TRIES = 10


@dataclasses.dataclass(frozen=True)
class Crop:
    """Draws windows as torchvision's `RandomResizedCrop` and timm's do.

    Attributes:
        area: least share of the image's area, as `augment.crop_area`.
        ratio: largest width / height of a window, and height / width, as `augment.crop_ratio`.
    """

    area: float
    ratio: float

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Returns what `window` needs of `count` images: float64 [count, 2 * TRIES + 2] in [0, 1)."""
        return random.random((count, 2 * TRIES + 2))

    def window(self, drawn: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns top, left, height and width in pixels of the window in an image of this size.

        A share of the area and a logarithm of the ratio are drawn evenly, up to ten times, until they fit into the image; else the
        window is the largest one of an allowed ratio, in the middle.

        Args:
            drawn: a row of `draw`.
            height, width: of the image, in pixels.
        """
        shares = self.area + drawn[:TRIES] * (1 - self.area)
        ratios = np.exp((2 * drawn[TRIES:-2] - 1) * math.log(self.ratio))
        heights = np.round(np.sqrt(shares * height * width / ratios)).astype(int)
        widths = np.round(np.sqrt(shares * height * width * ratios)).astype(int)
        fits = np.flatnonzero((heights > 0) & (widths > 0) & (heights <= height) & (widths <= width))
        if len(fits):
            high, wide = int(heights[fits[0]]), int(widths[fits[0]])
            return int(drawn[-2] * (height - high + 1)), int(drawn[-1] * (width - wide + 1)), high, wide
        high = min(height, max(round(width * self.ratio), 1))
        wide = min(width, max(round(height * self.ratio), 1))
        return (height - high) // 2, (width - wide) // 2, high, wide
