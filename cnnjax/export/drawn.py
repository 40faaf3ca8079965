"""Drawn images, on which a file is compared where nobody has any."""

import io

import numpy as np
from PIL import Image

COUNT = 16
SIDE = 4  # pixels that are drawn


def coarse_images() -> np.ndarray:
    """Returns what the images are made of, uint8 [16, 4, 4, 3], always the same."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)


def jpeg_picture() -> tuple[bytes, np.ndarray]:
    """Returns a JPEG file as cameras write them, with half as many colours along either side, and its pixels, uint8 [48, 64, 3]."""
    file = io.BytesIO()
    Image.fromarray(coarse_images()[0]).resize((64, 48), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=90, subsampling="4:2:0"
    )
    return file.getvalue(), np.asarray(Image.open(file))


def drawn_images(shape: tuple[int, int]) -> np.ndarray:
    """Returns smooth images, uint8 [16, height, width, 3]: a network says the same of all noise. Rows are resized first, then columns."""
    made, method = [], Image.Resampling.BICUBIC
    for one in coarse_images():
        made.append(np.asarray(Image.fromarray(one).resize((shape[1], SIDE), method).resize(shape[::-1], method)))
    return np.stack(made)
