"""A restored network as its exported file has it: in plain JAX and float32, with the facts of its run."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import cnnjax
from cnnjax import metrics, models, runtime
from cnnjax.config import Config
from cnnjax.errors import DataError
from cnnjax.export import Portable, check_output, drawn_images, find_runtime, make_card, write
from cnnjax.inference.engine import Engine, compile_logits
from cnnjax.inference.restoring import RestoredNetwork
from cnnjax.kernels import PLAIN
from cnnjax.runs import RunDirectory

AT_ONCE = 32  # images of a call


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
            [readout.probabilities(engine.logits(images[at : at + AT_ONCE])) for at in range(0, len(images), AT_ONCE)]
        )
    runtime_web = find_runtime("", Path(restored.config.data.cache_dir).expanduser()) if kind == "html" else None
    return write(to_portable(restored, readout, run), path, kind, images, p, runtime=runtime_web).largest


def _float32(config: Config) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision="float32"))
