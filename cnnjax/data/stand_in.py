"""A stand-in for TensorFlow with the few functions that most builders of TFDS need."""

import contextlib
import functools
import glob
import io
import os
import types
from collections.abc import Iterator

import numpy as np
from PIL import Image


class _Part(types.SimpleNamespace):
    def __getattr__(self, name: str):
        raise ImportError(f"it uses TensorFlow's {name}", name="tensorflow")


@contextlib.contextmanager
def tensorflow_stand_in() -> Iterator[None]:
    """Give TFDS the few functions of TensorFlow that most builders need, all else being an ImportError."""
    from tensorflow_datasets.core.utils import lazy_imports_utils

    def encode_png(image: np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
        return types.SimpleNamespace(numpy=buffer.getvalue)

    gfile = _Part(
        GFile=open,
        listdir=os.listdir,
        exists=os.path.exists,
        isdir=os.path.isdir,
        glob=glob.glob,
        walk=os.walk,
        remove=os.remove,
        makedirs=functools.partial(os.makedirs, exist_ok=True),
    )
    lazy = vars(lazy_imports_utils.tensorflow)
    lazy["_module"] = _Part(
        io=_Part(gfile=gfile),
        image=_Part(encode_png=encode_png),
        compat=_Part(as_text=os.fsdecode),
        executing_eagerly=lambda: True,
    )
    try:
        yield
    finally:
        lazy.pop("_module", None)
