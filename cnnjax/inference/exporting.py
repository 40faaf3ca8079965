"""A restored network as its exported file has it: in plain JAX and float32, with the facts of its run."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import cnnjax
from cnnjax import metrics, models, runtime
from cnnjax.config import Config
from cnnjax.errors import DataError
from cnnjax.export import Portable, check_output, make_card, write
from cnnjax.inference.engine import Engine, compile_logits
from cnnjax.inference.restoring import RestoredNetwork
from cnnjax.kernels import PLAIN
from cnnjax.runs import RunDirectory

DRAWN = 16  # images that a file is compared on where nobody has any


def to_portable(restored: RestoredNetwork, readout: metrics.Readout, run: RunDirectory | None) -> Portable:
    """Returns a network ready to be written.

    Args:
        restored: from `restore`.
        readout: from its logits to probabilities and the called class.
        run: of which the facts are; test numbers are those of its best step. None: they stay open.
    """
    network = models.network(_float32(restored.config), len(restored.classes), PLAIN, restored.preprocessing)
    arrays = jax.tree.map(np.asarray, restored.engine.model)
    summary = run.read_summary() if run and run.has_ended() else None
    known = summary is not None and summary.best_step == restored.step and bool(summary.test)
    facts = {"test": summary.test, "intervals": summary.intervals.get("test", {})} if known else {}
    card = make_card(classes=restored.classes, preprocessing=restored.preprocessing, readout=readout, arrays=arrays,
                     network=restored.config.model.name, run=run.path.resolve().name if run else "", step=restored.step,
                     library=f"cnnjax {cnnjax.__version__}", **facts)  # fmt: skip
    return Portable.of(network, arrays, card)


def computes_float32(restored: RestoredNetwork) -> bool:
    """Returns whether the run computes in float32, as its exported file does."""
    return restored.engine.network.model.dtype == np.float32


def in_float32(restored: RestoredNetwork) -> Engine:
    """Returns the network compiled for float32; the engine as it is where it computes so."""
    engine = restored.engine
    if computes_float32(restored):
        return engine
    network = models.network(_float32(restored.config), len(restored.classes), engine.network.ops, restored.preprocessing)
    return dataclasses.replace(engine, run=compile_logits(network, engine.mesh), network=network)


@contextlib.contextmanager
def exact_products(engine: Engine) -> Iterator[None]:
    """Has an accelerator multiply whole float32 numbers, as a CPU does; it rounds factors otherwise."""
    if runtime.platform_of(engine.mesh) == "cpu":
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield


def write_file(restored: RestoredNetwork, readout: metrics.Readout, run: RunDirectory | None, path: Path, kind: str, images: np.ndarray | None
               ) -> float:  # fmt: skip
    """Writes a network and compares the file with it; see `Classifier.export`."""
    kind = check_output(path, kind)
    shape = restored.preprocessing.shape
    images = drawn_images(shape) if images is None else np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*shape, 3) or not len(images):
        raise DataError(
            f"export compares on images uint8 [n, {shape[0]}, {shape[1]}, 3] in [0, 255], not {images.dtype} {list(images.shape)}"
        )
    engine = in_float32(restored)
    with exact_products(engine):
        p = np.concatenate(
            [readout.probabilities(engine.logits(images[at : at + DRAWN])) for at in range(0, len(images), DRAWN)]
        )
    return write(to_portable(restored, readout, run), path, kind, images, p).largest


def drawn_images(shape: tuple[int, int]) -> np.ndarray:
    """Returns smooth images, uint8 [16, height, width, 3], always the same: a network says the same of all noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (DRAWN, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize(shape[::-1], Image.Resampling.BICUBIC)) for one in coarse])


def _float32(config: Config) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision="float32"))
