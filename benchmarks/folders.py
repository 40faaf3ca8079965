"""The folders of image files that all sides read: one that was named, or one that is drawn."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import tasks

SUFFIXES = (".png", ".jpg", ".jpeg")
NAMES = {"malaria": ("Parasitized", "Uninfected"), "flowers": ("daisy", "dandelion", "roses", "sunflowers", "tulips"),
         "resnet18": tuple(f"class{i}" for i in range(10)),
         "resnet50": tuple(f"class{i:03}" for i in range(1000))}  # fmt: skip
SIDES = {"flowers": (224, 320), "resnet18": (64, 128), "resnet50": (256, 500)}  # pixels, of drawn photos


def listed(folder: str | Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Image files in the folders of a folder: paths, int32 labels and names of the classes; all sorted by name."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(p for p in os.listdir(Path(folder) / name) if p.lower().endswith(SUFFIXES))
        paths += [str(Path(folder) / name / file) for file in files]
        labels += [label] * len(files)
    return paths, np.array(labels, np.int32), classes


def draw(task: str, images: int, folder: Path) -> None:
    """Draws a data set: cnnjax's demo cells as PNG for malaria, JPEG photos of blotches for the others."""
    for name in NAMES[task]:
        (folder / name).mkdir(parents=True)
    if task == "malaria":
        from cnnjax.data import demo

        for id in demo.ids(0, images):
            (folder / id).write_bytes(demo.draw(0, id))
        return
    rng = np.random.default_rng(0)
    for i in range(images):
        name = NAMES[task][i % len(NAMES[task])]
        (folder / name / f"{i:06}.jpg").write_bytes(photo(rng, *rng.integers(*SIDES[task], 2)))


def photo(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG of coarse and fine blotches, about as many bytes as a photo of its size."""
    layers = [rng.integers(0, 256, (n, n, 3), np.uint8) for n in (5, 12, 60)]
    planes = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC), np.float32) for x in layers]
    buffer = io.BytesIO()
    Image.fromarray((0.5 * planes[0] + 0.3 * planes[1] + 0.2 * planes[2]).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def read(path: str, size: int) -> np.ndarray:
    """uint8 [size, size, 3] by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def decoded_split(settings: tasks.Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """uint8 images [n, size, size, 3], int32 labels [n], and the rows of the training and of the validation part, 80 to 20."""
    paths, labels, _ = listed(settings.data)
    order = np.random.default_rng(123).permutation(len(paths))
    images = np.stack([read(path, settings.size) for path in paths])
    return images, labels, order[len(order) // 5 :], order[: len(order) // 5]
