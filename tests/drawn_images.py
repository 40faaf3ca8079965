"""Small learnable images, drawn and written as folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SPOTS = ((90, 20, 130), (20, 110, 40), (200, 160, 20), (20, 60, 190), (160, 20, 20))  # one colour per class


def draw_cell(rng: np.random.Generator, label: int, size: tuple[int, int], tint: np.ndarray) -> Image.Image:
    """A round cell on black, `size` (width, height); the class decides the spot in it, -1 has none."""
    width, height = size
    background = np.clip(rng.normal(8, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    edge = rng.integers(1, 4, 4)
    draw.ellipse((edge[0], edge[1], width - 1 - edge[2], height - 1 - edge[3]), fill=tuple(int(v) for v in tint))
    if label >= 0:
        x, y = rng.uniform(0.35, 0.65, 2) * size
        radius = rng.uniform(0.1, 0.16) * min(size)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=SPOTS[label % len(SPOTS)])
    noisy = np.asarray(image) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_folder(
    root: Path,
    classes: Sequence[str] = ("Parasitized", "Uninfected"),
    per_class: int = 24,
    size: tuple[int, int] = (40, 44),
    patients: int = 12,
    suffix: str = ".png",
) -> Path:
    """Learnable images, `root/class/C<patient>P1thinF_IMG_x_cell_<number><suffix>`; equal calls write equal files.

    Every patient has its own colour and images of every class. The last of the classes has no spot.
    """
    rng = np.random.default_rng(len(classes) * 1000 + per_class)
    tints = np.clip(rng.normal((205, 150, 165), 12, (patients, 3)), 100, 240)
    number = 0
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            number += 1
            patient = i % patients
            jittered = tuple(int(v) for v in np.asarray(size) + rng.integers(-3, 4, 2))
            image = draw_cell(rng, label if label < len(classes) - 1 else -1, jittered, tints[patient])
            image.save(root / name / f"C{patient + 1}P1thinF_IMG_x_cell_{number}{suffix}")
    return root
