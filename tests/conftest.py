"""Fixtures of several test files: small generated image folders, a cache of their own, the real data where it is."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="session")
def make_folder():
    """`write_folder` as a fixture: make_folder(root, classes, per_class, size, patients, suffix) -> root."""
    return write_folder


@pytest.fixture(scope="session")
def cell_folder(tmp_path_factory) -> Path:
    """Parasitized and Uninfected, 48 images each of 12 patients C1 ... C12, about 40x44 pixels. Read it only."""
    return write_folder(tmp_path_factory.mktemp("data") / "cells", per_class=48)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache directory that the tests of a file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(cell_folder, cache):
    """training_tools.tiny(**overrides) on the cells."""
    from training_tools import tiny

    return lambda **overrides: tiny(cell_folder, cache, **overrides)


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs of a test that does not look at them have no pictures and an empty report: half of the time of a small run."""
    pages = importlib.import_module("cnnjax.pages")
    monkeypatch.setattr(pages, "save_figure", lambda figure, path, **options: path.touch())
    for name in ("history_figure", "network_figure"):
        monkeypatch.setattr(pages, name, lambda *numbers, **options: None)
    monkeypatch.setattr(pages, "write_report", lambda workdir: (Path(workdir) / "report.html").touch())


@pytest.fixture(scope="session")
def plain(cell_folder, tmp_path_factory):
    """A finished run of three epochs on the cells: its `workdir`, `config` and `summary`. Read it only."""
    from training_tools import tiny

    place = tmp_path_factory.mktemp("plain")
    config = tiny(cell_folder, place / "cache", log__tensorboard=True)
    train = importlib.import_module("cnnjax.commands.train").train
    return SimpleNamespace(workdir=place / "run", config=config, summary=train(config, place / "run"))


@pytest.fixture
def isolated_cache(tmp_path) -> Path:
    """A cache directory that no other test sees."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real images are not there: {path}")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT
