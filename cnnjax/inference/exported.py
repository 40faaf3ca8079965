"""An exported file of ONNX or StableHLO at work, with the same answers as the run that it comes from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnnjax.config import Preprocessing
from cnnjax.cpus import cpu_quota, usable_cpus
from cnnjax.errors import ConfigError, DataError
from cnnjax.export import Card, read_stablehlo
from cnnjax.export import card_of_onnx as read_onnx_card

INSTALL = "pip install 'cnnjax[export]'"


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A file that `Classifier.export` or `--mode=export` wrote; made by `open_exported`.

    Attributes:
        card: the facts in the file.
        path: of the file.
    """

    card: Card
    path: Path
    _run: Callable[[np.ndarray], np.ndarray]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the probabilities."""
        return self.card.classes

    @property
    def positive(self) -> int:
        """Index of the positive class of two; -1 for more classes."""
        return self.card.positive

    @property
    def threshold(self) -> float:
        """Probability of the positive class from which that is called, of two classes."""
        return self.card.threshold

    @property
    def preprocessing(self) -> Preprocessing:
        """The steps from an image file to the input."""
        return self.card.preprocessed

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Computes calibrated probabilities, in the order of `classes`.

        Args:
            images: uint8 [n, height, width, 3], RGB, of the height and width of `preprocessing`.

        Returns:
            float64 [n, classes].

        Raises:
            DataError: another type or shape.
        """
        height, width = self.card.shape
        kind, shape = getattr(images, "dtype", type(images).__name__), getattr(images, "shape", ())
        if kind != np.uint8 or len(shape) != 4 or shape[1:] != (height, width, 3):
            raise DataError(
                f"{self.path} takes an array uint8 [n, {height}, {width}, 3] in [0, 255], not {kind} {list(shape)}"
            )
        if not len(images):
            return np.empty((0, len(self.classes)))
        return np.asarray(self._run(images), np.float64)

    def called(self, p: np.ndarray) -> np.ndarray:
        """Returns the class that is called of each row of probabilities [n, classes], int [n]: of two by the threshold."""
        return self.card.called(p)


def open_exported(path: str | Path) -> Exported:
    """Opens an exported file, by the ending of its name. Weights and graph are a stranger's as much as the file is.

    Args:
        path: FILE.onnx or FILE.stablehlo.

    Raises:
        ConfigError: no such file, another kind of file, a damaged one, or its runtime is not installed.
    """
    path = Path(path)
    opened = {".onnx": _open_onnx, ".stablehlo": _open_stablehlo}.get(path.suffix.lower())
    if opened is None:
        raise ConfigError(f"{path}: the name decides the format; name an exported file that ends in .onnx or .stablehlo")
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; write it with --mode=export --workdir=RUN --output={path}")
    return Exported(*opened(path))


def _open_onnx(path: Path) -> tuple[Card, Path, Callable]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path} takes onnxruntime: {INSTALL}") from None
    options = onnxruntime.SessionOptions()
    # Its threads do not spin, for other work runs in the process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if cpu_quota():
        options.intra_op_num_threads = usable_cpus()
    options.log_severity_level = 3  # errors alone, and these are raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are not public
        raise ConfigError(
            f"{path} is not a whole file of ONNX ({' '.join(str(error).split())[:200]}); export the run anew"
        ) from None
    card = read_onnx_card(session.get_modelmeta().custom_metadata_map, path)
    return card, path, lambda images: session.run(["probabilities"], {"images": images})[0]


def _open_stablehlo(path: Path) -> tuple[Card, Path, Callable]:
    import jax
    from jax import export

    card, content = read_stablehlo(path)
    try:
        call = jax.jit(export.deserialize(bytearray(content)).call)
    except ImportError:
        raise ConfigError(f"{path} takes flatbuffers: {INSTALL}") from None
    except Exception as error:  # of flatbuffers, of MLIR, of a newer version
        raise ConfigError(
            f"{path} cannot be read by this version of JAX ({' '.join(str(error).split())[:200]}); export the run anew"
        ) from None
    return card, path, call
