"""How cnnjax alone grows with the number of images: time of each part, and memory of a run, which lists them once."""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import results
from benchmarks.sides import Side, environment
from benchmarks.tasks import Settings

COUNTS = (10_000, 100_000, 1_000_000)
SIZE = 16  # pixels
DIFFERENT = 256  # images, of which each class repeats half


def archive(path: Path, images: int) -> None:
    """A zip archive of small PNG files in two class folders."""
    rng, files = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(buffer, "PNG", compress_level=1)
        files.append(buffer.getvalue())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for i in range(images):
            out.writestr(f"images/{'ab'[i % 2]}/{i:07}.png", files[i % DIFFERENT])


def measure(flags: argparse.Namespace, scratch: Path) -> dict:
    """Two fresh processes for each number of images, one that prepares them and a run; the shape of `compare.compare`'s result."""
    machine = results.machine(flags.threads)
    counts = (flags.images,) if flags.images else COUNTS
    values, memory, about = {}, {}, {}
    for count in counts:
        path = scratch / f"{count}.zip"
        archive(path, count)
        own = scratch / str(count)
        own.mkdir()
        settings = Settings(
            "malaria", 32, flags.batch or 256, 2, flags.precision, flags.threads, data=str(path), scratch=str(own)
        )
        label = f"cnnjax, {count:,} images"
        for what in ("listing", "growth"):
            side = Side(label, "cnnjax", settings, environment("cnnjax", flags.threads, {}))
            try:
                about[label] = side.ask("about")
                side.ask("prepare", what=what)
                for name, value in side.ask("turn").items():
                    values.setdefault(name, {})[label] = [value]
                memory[label] = side.memory()  # in the end that of the run
            finally:
                side.close()
        print(f"  {label} done", flush=True)
        path.unlink()
    settings = {"task": "malaria", "what": "growth-data", "size": 32, "batch": settings.batch, "precision": flags.precision,
                "threads": flags.threads, "images": sum(counts), "drawn": True}  # fmt: skip
    return {"machine": machine, "settings": settings, "about": about, "losses": {}, "left_out": {}, "results": values,
            "memory": memory}  # fmt: skip
