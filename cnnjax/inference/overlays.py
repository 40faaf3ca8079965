"""Pictures of where a network looks: maps drawn over images, for an evaluation and for files that are predicted."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax import data as data_lib
from cnnjax import metrics
from cnnjax.data import Dataset
from cnnjax.errors import DataError
from cnnjax.inference.classifier import Classifier, Prediction
from cnnjax.inference.engine import Engine
from cnnjax.inference.explanation import AT_ONCE, Explainer, agreements, checked, stretched
from cnnjax.inside import inside
from cnnjax.runs import Explanation, Seen, replacing

SIDE = 220  # pixels of the longer side in a report, as of its other pictures
SIDES = (224, 512)  # the same of a file by itself: smaller images are enlarged, larger ones reduced
COLOURS = "inferno"  # matplotlib's, of even lightness: told apart with every kind of colour vision, and in grey
STRENGTH = 0.8  # of the colour where the map is 1; where it is 0 the image is left, without its colours
RIGHT, CLASSES = 3, 6  # right answers of each class, and of how many classes


def overlay(image: np.ndarray, heat: np.ndarray, side: int) -> np.ndarray:
    """Draws a map over an image in grey, whose own colours would be taken for those of the map.

    Args:
        image: uint8 [h, w, 3].
        heat: float32 [height, width] in [0, 1], of the same part; enlarged or reduced to fit.
        side: pixels of the longer side of the result.

    Returns:
        uint8 [h', w', 3].
    """
    import matplotlib

    scale = side / max(image.shape[:2])
    size = tuple(max(round(length * scale), 1) for length in image.shape[1::-1])
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L").resize(size, Image.Resampling.BICUBIC))
    heat = stretched(heat, grey.shape)
    share = STRENGTH * np.sqrt(heat)[..., None]
    return (
        ((1 - share) * grey[..., None] + share * 255 * matplotlib.colormaps[COLOURS](heat)[..., :3]).round().astype(np.uint8)
    )


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images of a split whose maps are drawn, and their maps.

    Attributes:
        order: int [n], which of the split's images: the most confident mistakes, then right answers.
        maps: float32 [n, height, width] in [0, 1].
        agreements: one for each; see `explanation.agreements`.
        explanation: without its pictures.
    """

    order: np.ndarray
    maps: np.ndarray
    agreements: Sequence[float | None]
    explanation: Explanation


NOTHING = Chosen(np.arange(0), np.empty((0, 0, 0), np.float32), (), Explanation())


def choose(
    engine: Engine, data: Dataset, rows: np.ndarray, called: np.ndarray, mistakes: np.ndarray, batch_size: int
) -> Chosen:
    """Computes maps for mistakes and for right answers of each of the largest classes; on every process, which all call it.

    Args:
        engine: network and weights.
        data: the images.
        rows: int [n] of the split's images.
        called: int [n], the class that the network gives each.
        mistakes: which of the n; they come first.
        batch_size: that of training.
    """
    explainer = Explainer(engine)
    explanation = Explanation(places=explainer.places, reason=explainer.reason)
    order = np.concatenate([mistakes, *_right(data.labels[rows], called)]).astype(int)
    if explainer.reason or not len(order):
        return dataclasses.replace(NOTHING, explanation=explanation)
    images, classes = data.images[rows[order]], called[order]
    maps = explainer.maps(images, classes)
    some = checked(len(order), len(rows))
    found = dict(zip(some, agreements(engine, images[some], classes[some], maps[some], batch_size), strict=True))
    return Chosen(order, maps, [found.get(i) for i in range(len(order))], explanation)


def _right(labels: np.ndarray, called: np.ndarray) -> list[np.ndarray]:
    """Returns up to `RIGHT` right answers of each of the `CLASSES` largest classes, spread evenly over the split."""
    count = np.bincount(labels)
    largest = np.sort(np.argsort(-count, kind="stable")[:CLASSES])
    right = [np.flatnonzero((labels == c) & (called == c)) for c in largest]
    return [own[np.unique(np.linspace(0, len(own) - 1, RIGHT).round().astype(int))] for own in right if len(own)]


def write_overlays(directory: Path, chosen: Chosen, data: Dataset, rows: np.ndarray, logits: np.ndarray,
                   readout: metrics.Readout, called: np.ndarray, originals: Mapping[int, np.ndarray]) -> Explanation:  # fmt: skip
    """Writes the pictures of an evaluation.

    Args:
        directory: for them; what was in it is gone already.
        chosen: from `choose`, with the next three.
        data, rows, called: those that it was given.
        logits: float [n, outputs] of `rows`.
        readout: from logits to probabilities.
        originals: row of `data` -> uint8 [h, w, 3], the image of its file; where it lacks one, the resized one is drawn.
    """
    p, how, seen = readout.probabilities(logits[chosen.order]), data.preprocessing, []
    for place, (i, q, heat, agreement) in enumerate(zip(chosen.order, p, chosen.maps, chosen.agreements, strict=True)):
        row, label, best = int(rows[i]), data.labels[rows[i]], called[i]
        image = originals.get(row)
        heat = heat if image is None else heat[data_lib.shown_part(image.shape[:2], heat.shape, how.resize)]
        encoded = data_lib.thumbnail(overlay(data.images[row] if image is None else image, heat, SIDE))
        file = inside(directory, f"{'right' if label == best else 'mistake'}-{place + 1:02}.jpg")
        with replacing(file) as temporary:
            temporary.write_bytes(encoded)
        seen.append(Seen(id=data.ids[row], label=data.classes[label], predicted=data.classes[best], probability=float(q[best]),
                         file=f"{directory.name}/{file.name}", sha256=hashlib.sha256(encoded).hexdigest(), agreement=agreement))  # fmt: skip
    return dataclasses.replace(chosen.explanation, pictures=tuple(seen))


class OverlayFiles:
    """Pictures of files that are predicted: DIR/000001-NAME.png, the number being the file's row in the table.

    Args:
        directory: made when missing.
        classifier: what predicts.

    Raises:
        DataError: the network has no maps, or the directory holds files and `overwrite` is False.
    """

    def __init__(self, directory: Path, classifier: Classifier, *, overwrite: bool):
        if reason := classifier.unexplained:
            raise DataError(
                f"--explain={directory}: this network does not show where it looks: {reason}; leave out --explain"
            )
        if directory.is_file() or (directory.exists() and any(directory.iterdir()) and not overwrite):
            raise DataError(f"{directory} is there and not empty; add to it with --overwrite, or name another --explain=DIR")
        self._directory, self._classifier, self._waiting, self._rows = directory, classifier, [], 0

    def add(self, reference: data_lib.Reference, prediction: Prediction) -> None:
        """Takes the next row of the table; its picture is written at once or with those of the next rows."""
        self._rows += 1
        if not prediction.error:
            self._waiting.append((self._rows, reference, prediction))
        if len(self._waiting) == AT_ONCE:
            self.finish()

    def finish(self) -> None:
        """Writes what is waiting."""
        numbers, references, predictions = zip(*self._waiting, strict=True) if self._waiting else ((), (), ())
        drawn = seen_places(self._classifier, references, [prediction.predicted for prediction in predictions])
        for number, prediction, encoded in zip(numbers, predictions, drawn, strict=True):
            stem = re.sub(r"[^\w.-]+", "_", Path(prediction.path).stem)[-60:]
            with replacing(inside(self._directory, f"{number:06}-{stem}.png")) as temporary:
                temporary.write_bytes(encoded)
        self._waiting = []


def seen_places(classifier: Classifier, references: Sequence[data_lib.Reference], names: Sequence[str]) -> list[bytes]:
    """Draws where a network looks, as PNG files of 224 to 512 pixels.

    Args:
        classifier: of one network, whose `unexplained` is "".
        references: up to `AT_ONCE` files that can be read.
        names: for each the class whose places are shown.
    """
    drawn = []
    for image, heat in classifier.look(references, names, _reduced):
        encoded = io.BytesIO()
        side = min(max(*image.shape[:2], SIDES[0]), SIDES[1])
        Image.fromarray(overlay(image, heat, side)).save(encoded, "png")
        drawn.append(encoded.getvalue())
    return drawn


def _reduced(image: np.ndarray) -> np.ndarray:
    """Returns an image of at most `SIDES[1]` pixels a side: some wait together, and each may be large."""
    small = Image.fromarray(image)
    small.thumbnail((SIDES[1],) * 2, Image.Resampling.LANCZOS)
    return np.asarray(small)
