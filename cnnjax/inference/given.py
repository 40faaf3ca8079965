"""Images as callers give them: paths, bytes of files, PIL images and arrays."""

import io
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from cnnjax import data as data_lib
from cnnjax.errors import DataError

ImageLike = str | bytes | os.PathLike[str] | Image.Image | np.ndarray


def listed(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Returns one image or several as a list."""
    return [images] if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or _is_one(images) else list(images)


def _is_one(images: Any) -> bool:
    """Returns whether an array is one image: a stack of images has four axes."""
    return isinstance(images, np.ndarray) and images.ndim < 4


def name_of(image: ImageLike) -> str:
    """Returns the path of an image; "" where it has none."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else str(getattr(image, "filename", "") or "")


def reference_of(image: ImageLike) -> data_lib.FileReference | data_lib.DataReference:
    """Returns what a decoding thread reads. Raises DataError for what is not an image."""
    if isinstance(image, (str, os.PathLike)):
        return data_lib.FileReference(os.fspath(image))
    if isinstance(image, bytes):
        return data_lib.DataReference(image)
    if isinstance(image, Image.Image):
        return data_lib.DataReference(_bytes(image))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (1, 3, 4))
    ) or not image.size:  # fmt: skip
        raise DataError("predict takes paths, bytes, PIL images, and arrays uint8 [height, width] or [height, width, 1, 3 or 4] in [0, 255], "
                        f"not {described(image)}")  # fmt: skip
    return data_lib.DataReference(image)


def _bytes(image: Image.Image) -> np.ndarray | bytes:
    """Returns the pixels of a PIL image, or a lossless file where a decoder has more to do, such as with 16 bits or a palette."""
    image = data_lib.upright(image)
    if image.mode in ("RGB", "L", "RGBA") and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
        return np.asarray(image.convert("RGB"))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def described(value: Any) -> str:
    """Names the type of a wrong argument: "float32 [2, 8, 8, 3]"."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
