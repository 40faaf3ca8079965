"""A trained network that takes images: files, bytes, PIL images and arrays."""

import collections
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import data as data_lib
from cnnjax import metrics, models, runtime
from cnnjax.config import Preprocessing
from cnnjax.errors import DataError
from cnnjax.inference.engine import logits_step
from cnnjax.inference.explanation import AT_ONCE, Explainer, stretched
from cnnjax.inference.exporting import write_file
from cnnjax.inference.given import ImageLike, described, listed, name_of, reference_of
from cnnjax.inference.restoring import RestoredNetwork, restore
from cnnjax.inference.unlike import unlike
from cnnjax.kernels import Ops
from cnnjax.runs import RunDirectory, Typical, read_typical

BYTES_AT_ONCE = 64 << 20  # bytes of resized pixels that `predict_proba` holds at once


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The network's answer for one image.

    Attributes:
        path: the file; "" for an array, and for a PIL image that comes from no file.
        predicted: name of the class that is called: the most probable one, or of two by the run's threshold; "" where the file cannot
            be read.
        probabilities: class name -> calibrated probability; {} where the file cannot be read.
        error: why it cannot be read, else "".
        unlike: how unlike the training images it is: above 1 is one validation image in a hundred. None where it cannot be read, and
            for runs without `typical.json`.
    """

    path: str
    predicted: str
    probabilities: dict[str, float]
    error: str = ""
    unlike: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them."""
        return dataclasses.asdict(self)


class Classifier:
    """A trained network that takes images; made by `load`, as is the subclass `Ensemble`.

    Attributes:
        classes: names in the order of the probabilities.
        preprocessing: the steps from a file to the network's input, those of its training.
        step: which checkpoint.
        calibration: how probabilities are made of logits; None where none is stored for the checkpoint.
        readout: from logits to probabilities and the called class, of this use.
        positive: index of the positive class of two; -1 for more classes.
        threshold: probability of the positive class from which that is called, of two classes.
        params: the weights with their statistics, a plain dict of arrays for `apply`.
        typical: by which images unlike those of the training are known; None for runs without.
    """

    def __init__(self, restored: RestoredNetwork, typical: Typical | None = None, readout: metrics.Readout | None = None,
                 run: RunDirectory | None = None):  # fmt: skip
        self._restored, self._run, self.typical = restored, run, typical
        self._unlike = unlike(typical) if typical else None
        self.readout: metrics.Readout = readout or restored.reading.readout
        self.calibration: metrics.Calibration | None = restored.reading.calibration
        self.threshold: float = self.readout.threshold
        self.positive: int = self.readout.positive
        self.classes: tuple[str, ...] = restored.classes
        self.preprocessing: Preprocessing = restored.preprocessing
        self.step: int = restored.step

    @property
    def warning(self) -> str:
        """One line where this process makes other pixels than the network was trained on; "" where they are the same."""
        return self.preprocessing.maker_differs(data_lib.preprocessing(self._restored.config.image))

    @property
    def ignored(self) -> tuple[str, ...]:
        """A line for each calibration or threshold of the run that is of another checkpoint."""
        return self._restored.reading.ignored

    @property
    def params(self) -> dict[str, Any]:
        """{"params", "stats"}: plain dicts of float32 arrays."""
        return self._restored.engine.model

    @functools.cached_property
    def _plain(self) -> models.Network:
        """The network in plain JAX, which can be transformed: the CPU's own kernels know neither `vmap` nor forward mode."""
        config = self._restored.config
        precision = models.precision(config, runtime.ops(config.runtime, runtime.platform_of(self._restored.engine.mesh)))
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))
        return models.network(config, len(self.classes), Ops(), self.preprocessing)

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> list[Prediction]:
        """Predicts images, decoded and resized as in training.

        Args:
            images: one image or several: paths, bytes of a file, PIL images, or uint8 arrays [height, width], or [height, width, 1, 3 or 4].

        Returns:
            One result per image, in order. A file that cannot be read has an `error`.

        Raises:
            DataError: an array that is not an image.
        """
        return list(self.stream(listed(images)))

    def stream(self, images: Sequence[ImageLike]) -> Iterator[Prediction]:
        """Predicts as `predict` does, one result at a time; memory does not grow with the number of files."""
        yield from self.stream_files(((name_of(image), reference_of(image)) for image in images), len(images))

    def stream_files(self, files: Iterable[tuple[str, data_lib.Reference]], count: int) -> Iterator[Prediction]:
        """Predicts (name, reference) one at a time, as `stream` does; there are `count` of them."""
        names: collections.deque[str] = collections.deque()

        def references() -> Iterator[data_lib.Reference]:
            for name, reference in files:
                names.append(name)
                yield reference

        for p, called, apart, facts in self.chunks(references(), count):
            for q, label, far, fact in zip(p.tolist(), called, apart, facts, strict=True):
                name = names.popleft()
                if fact["reason"]:
                    yield Prediction(name, "", {}, fact["reason"])
                else:
                    yield Prediction(name, self.classes[label], dict(zip(self.classes, q, strict=True)), unlike=far)

    def chunks(
        self, references: Iterable[data_lib.Reference], count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list, Sequence]]:
        """Yields what `read` and `apart` return, and facts, of files of which there are `count`, some at a time."""
        for pixels, facts in self.decoded(references, count):
            yield *self.read(pixels), self.apart(pixels), facts

    def decoded(self, references: Iterable[data_lib.Reference], count: int) -> Iterator[tuple[np.ndarray, Sequence]]:
        """Yields the network's input, uint8 [some, height, width, 3], and facts of files, some at a time."""
        how, workers = self.preprocessing, self._restored.config.runtime.workers
        return data_lib.decode_all(references, count, how.shape, how.resize, workers, levels=how.range)

    def read(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns calibrated probabilities, float64 [n, classes], and the called classes, int [n], of uint8 [n, height, width, 3]."""
        logits = self._restored.engine.logits(pixels)
        return self.readout.probabilities(logits), self.readout.called(logits)

    def apart(self, pixels: np.ndarray) -> list[float | None]:
        """Returns how unlike the training images each of uint8 [n, height, width, 3] is; None for runs without `typical.json`."""
        return self._unlike(pixels).tolist() if self._unlike else [None] * len(pixels)

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Computes calibrated probabilities by scikit-learn's contract: rows sum to 1, columns are in the order of `classes`.

        Args:
            images: uint8 [n, height, width, 3], RGB, of any size; resized as in training.

        Returns:
            float64 [n, classes].

        Raises:
            DataError: another type or shape.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(f"predict_proba takes an array uint8 [n, height, width, 3] in [0, 255], not {described(images)}")
        if not len(images):
            return np.empty((0, len(self.classes)))
        shape, method = self.preprocessing.shape, self.preprocessing.resize
        step = max(BYTES_AT_ONCE // (3 * math.prod(shape)), 1)
        parts = []
        for at in range(0, len(images), step):
            part = images[at : at + step]
            if part.shape[1:3] != shape:
                part = np.stack([data_lib.resize(image, shape, method) for image in part])
            parts.append(self.read(part)[0])
        return np.concatenate(parts)

    def explain(self, images: ImageLike | Iterable[ImageLike]) -> list[np.ndarray]:
        """Shows where the network looks: which places of each image speak for the class that it is given.

        Args:
            images: as for `predict`.

        Returns:
            For each image float32 [h, w] in [0, 1], of its own height and width; see `Explainer`. 0: the place does not speak for the class.

        Raises:
            DataError: an image that cannot be read, or a network without a map of places.
        """
        if self.unexplained:
            raise DataError(f"explain cannot show where this network looks: {self.unexplained}")
        images = listed(images)
        for number, prediction in enumerate(predictions := self.predict(images), 1):
            if prediction.error:
                raise DataError(
                    f"image {number} ({prediction.path or 'an array'}) cannot be read: {prediction.error}; leave it out"
                )
        found: list[np.ndarray] = []
        for at in range(0, len(images), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            names = [prediction.predicted for prediction in predictions[part]]
            looked = self.look(list(map(reference_of, images[part])), names, lambda image: image.shape[:2])
            found += [stretched(heat, shape) for shape, heat in looked]
        return found

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self._restored.engine)

    @property
    def unexplained(self) -> str:
        """Why `explain` does not work for this network; "" where it does."""
        return self._explainer.reason

    def look(self, references: Sequence[data_lib.Reference], names: Sequence[str], keep: Callable[[np.ndarray], Any]
             ) -> list[tuple[Any, np.ndarray]]:  # fmt: skip
        """Computes maps of a few files.

        Args:
            references: up to `AT_ONCE` files that can be read.
            names: for each the class whose places are shown.
            keep: uint8 [h, w, 3], the image of the file -> what the caller needs of it.

        Returns:
            (what `keep` returned, float32 map in [0, 1] of the image's part of what the network sees).
        """
        how, kept, parts = self.preprocessing, [], []
        pixels = np.empty((len(references), *how.shape, 3), np.uint8)
        for reference, out in zip(references, pixels, strict=True):
            image = data_lib.decode(reference.read(), how.range)
            data_lib.resize(image, how.shape, how.resize, out)
            kept.append(keep(image))
            parts.append(data_lib.shown_part(image.shape[:2], how.shape, how.resize))
        maps = self._explainer.maps(pixels, [self.classes.index(name) for name in names])
        return [(own, heat[part]) for own, heat, part in zip(kept, maps, parts, strict=True)]

    def apply(self, params: dict[str, Any], batch: Any) -> jax.Array:
        """Computes logits; a pure function for `jax.jit`, `jax.grad` and `jax.vmap`, in plain JAX.

        The logits are the network's own: `calibration` is not in them.

        Args:
            params: as `self.params`.
            batch: uint8 or floating point [b, height, width, 3] in [0, 255], RGB, where height and width are those of `preprocessing`.

        Returns:
            float32 [b, classes], or [b, 1] for two classes: the logit of the second.

        Raises:
            DataError: another type, shape or range. Values of a traced batch cannot be looked at.
        """
        own = self.preprocessing.shape
        kind, shape = getattr(batch, "dtype", None), getattr(batch, "shape", None)
        if kind is None or not (kind == np.uint8 or jax.numpy.issubdtype(kind, jax.numpy.floating)) or (
            len(shape) != 4 or shape[1:] != (*own, 3)
        ):  # fmt: skip
            raise DataError(
                f"apply takes a batch uint8 or float [b, {own[0]}, {own[1]}, 3] in [0, 255], not {described(batch)}"
            )
        if kind != np.uint8 and not isinstance(batch, jax.core.Tracer):
            low, high = (float(extreme(batch)) for extreme in (jax.numpy.min, jax.numpy.max)) if len(batch) else (0, 0)
            if not (low >= 0 and high <= 255):
                raise DataError(f"apply takes a batch in [0, 255], not in [{low:g}, {high:g}]")
        return logits_step(params, batch, network=self._plain)

    def export(self, path: str | os.PathLike[str], kind: str = "", *, images: np.ndarray | None = None) -> float:
        """Writes the network as a file for other programs, with calibration inside and the threshold among its facts.

        Args:
            path: of the file, which must not exist.
            kind: a key of `export.FORMATS`; "": by the ending of the name.
            images: uint8 [n, height, width, 3] of the network's size, on which the file is compared with this classifier, in a fresh
                process; None: drawn ones. `--mode=export` compares on all of validation.

        Returns:
            The largest difference of a probability. Above 1e-5 no file is left.

        Raises:
            ConfigError: a name that cannot be used, a package that is missing, or a network that the format cannot hold.
            DataError: images of another type or shape.
        """
        return write_file(self._restored, self.readout, self._run, Path(path), kind, images)


def load_one(
    workdir: str | Path, step: str | int = "best", *, prevalence: float | None = None, trust_code: bool = False
) -> Classifier:
    """Loads the classifier of one run onto this process's devices.

    Args:
        workdir: a run directory, wherever it was trained.
        step: "best", "latest" or the number of a checkpoint that was kept.
        prevalence: share of the positive class of two among the images to come; None: as in training. A threshold that was chosen on
            validation moves along and calls the same images.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: code that is not trusted, or a prevalence that this run has no use for.
    """
    restored = restore(workdir, step, trust_code=trust_code)
    run = RunDirectory(workdir)
    readout = None if prevalence is None else restored.reading.at_prevalence(prevalence, run)
    return Classifier(restored, read_typical(run), readout, run)
