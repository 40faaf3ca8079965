"""Properties of images that are not their content: how large, bright and sharp they are, and what a table says of them."""

from collections.abc import Iterator

import numpy as np

from cnnjax.data.dataset import Dataset

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's
LINES = 128  # rows of an image that are looked at, evenly spaced, where it has twice as many or more
PART = 64  # images at once, which stay in the processor's caches


def properties(data: Dataset, rows: np.ndarray) -> tuple[list[str], Iterator[tuple]]:
    """Returns the header and the rows of a table about images.

    Columns: id; longest_side of the file in pixels; brightness, the mean luma of the network's input in levels of 255; sharpness, the
    mean difference of neighbours in a row of luma, in levels; bytes_per_pixel of the file, where a listing tells its bytes; those of
    `data.metadata`.

    Args:
        data: the images.
        rows: int64, those that are wanted.
    """
    sides = np.array([data.facts[name].take(rows) for name in ("width", "height")], np.int64)
    brightness, sharpness = brightness_and_sharpness(data.images, rows)
    columns = {
        "id": data.ids.take(rows),
        "longest_side": sides.max(0).tolist(),
        "brightness": [f"{value:.2f}" for value in brightness],
        "sharpness": [f"{value:.3f}" for value in sharpness],
    }
    if data.sizes:
        columns["bytes_per_pixel"] = [f"{value:.4g}" for value in np.array(data.sizes(rows)) / sides.prod(0)]
    # A table may have a column of one of the names above.
    columns |= {f"{name}_" if name in columns else name: values.take(rows) for name, values in data.metadata.items()}
    return list(columns), zip(*columns.values(), strict=True)


def brightness_and_sharpness(images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean luma and the mean difference of neighbours in a row, float32 [rows] each, of uint8 [n, h, w, 3]."""
    found = np.empty((2, len(rows)), np.float32)
    step = max(images.shape[1] // LINES, 1)
    for at in range(0, len(rows), PART):
        luma = images[rows[at : at + PART], ::step].astype(np.float32) @ LUMA
        found[0, at : at + PART] = luma.mean((1, 2))
        found[1, at : at + PART] = np.abs(np.diff(luma, axis=2)).mean((1, 2))
    return found[0], found[1]
