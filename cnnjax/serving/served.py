"""The network that a server answers with, whatever it was loaded from."""

import dataclasses
import hashlib
import re
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import data as data_lib
from cnnjax import inference, kernels
from cnnjax.config import Preprocessing
from cnnjax.metrics import METRICS
from cnnjax.models import digest_of

Answers = tuple[np.ndarray, np.ndarray, Sequence[float | None]]  # of n images: probabilities, called classes, how unlike
TOLD = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1")  # numbers of an exported file's card
QUICK = 0.002  # seconds of one image
TINY = 0.0003  # seconds of one image on one thread: as many images a second as requests can be answered
File = bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Card:
    """A few sentences about a network, for who uses it.

    Attributes:
        lines: how good it is, how sure that is, and for whom.
        warnings: what must not be missed.
    """

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A network with everything around it that an answer takes.

    Attributes:
        name: in addresses.
        version: changes with the weights, the calibration and the threshold; that of a run is also that of its exported file.
        classes: names in the order of the probabilities.
        positive: index of the positive class of two; -1 for more classes.
        threshold: probability from which the positive class is called.
        ways: how a file becomes each array that `answers` takes.
        answers: uint8 [n, height, width, 3] for each of `ways` -> the answers of n images.
        card: about the network.
        tells_unlike: whether its warning of images unlike those of the training tells anything.
        is_quick: whether one image takes so little time that the event loop may compute it.
        seen: (file, class) -> PNG of where the network looks; None where it does not tell.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    positive: int
    threshold: float
    ways: tuple[Preprocessing, ...]
    answers: Callable[[Sequence[np.ndarray]], Answers]
    card: Card = Card()
    tells_unlike: bool = False
    is_quick: bool = False
    seen: Callable[[File, str], bytes] | None = None

    def decode(self, files: Sequence[File]) -> tuple[list[np.ndarray], list[str]]:
        """Decodes as training did, in the calling thread.

        Args:
            files: encoded files, or pixels uint8 [h, w, 3].

        Returns:
            What `answers` takes, zeros where a file cannot be read, and for each file why not, or "".
        """
        references, inputs, reasons = list(map(data_lib.DataReference, files)), [], []
        for how in self.ways:
            pixels, facts = data_lib.decode_chunk(references, how.shape, how.resize, None, how.range)
            inputs.append(pixels)
            reasons = [fact["reason"] for fact in facts]
        return inputs, reasons

    def prepare(self, most: int) -> "Served":
        """Compiles every size that a batch of up to `most` images is padded to, and the map of where the network looks.

        Returns:
            The same, which knows whether it is quick. Kernels of a tiny network have one thread from now on: more would take processors
            from the requests.
        """
        kernels.limit_threads()
        count = 1
        while True:
            self.answers([np.zeros((count, *how.shape, 3), np.uint8) for how in self.ways])
            if count >= most:
                break
            count *= 2
        if self.seen:
            self.seen(np.zeros((*self.ways[0].shape, 3), np.uint8), self.classes[0])
        one = [np.zeros((1, *how.shape, 3), np.uint8) for how in self.ways]
        kernels.limit_threads(1)
        if (fastest := _fastest(self.answers, one)) > TINY:
            kernels.limit_threads()
            fastest = _fastest(self.answers, one)
        return dataclasses.replace(self, is_quick=fastest <= QUICK)

    def to_dict(self) -> dict[str, Any]:
        """Returns what clients may know of it."""
        how = self.ways[0]
        two = {"positive": self.classes[self.positive], "threshold": self.threshold} if self.positive >= 0 else {}
        return {"name": self.name, "version": self.version, "classes": list(self.classes), **two,
                "input": {"height": how.shape[0], "width": how.shape[1], "resize": how.resize}, "tells_unlike": self.tells_unlike,
                "shows_places": self.seen is not None, "card": dataclasses.asdict(self.card)}  # fmt: skip


def of_classifier(classifier: inference.Classifier, name: str, card: Card = Card()) -> Served:
    """Returns a run, or the ensemble of a cross-validation, to be served."""

    def seen(file: File, label: str) -> bytes:
        return inference.seen_places(classifier, [data_lib.DataReference(file)], [label])[0]

    members = getattr(classifier, "members", (classifier,))
    facts = [
        (digest_of(of.params), *map(float, (of.readout.scale, of.readout.intercept, of.readout.threshold)), "")
        for of in members
    ]
    return Served(
        name=plain_name(name), version=_version(classifier.step if len(members) == 1 else None, classifier.classes, facts),
        classes=classifier.classes, positive=classifier.positive, threshold=classifier.threshold, ways=inference.ways(classifier), card=card,
        answers=lambda inputs: inference.answers(classifier, inputs),
        tells_unlike=classifier.typical is not None and classifier.typical.can_tell,
        seen=None if classifier.unexplained else seen,
    )  # fmt: skip


def of_exported(exported: inference.Exported, name: str) -> Served:
    """Returns an exported file to be served: it tells neither where it looks nor of images unlike those of the training."""
    card, padded = exported.card, exported.path.suffix.lower() != ".onnx"  # ONNX Runtime takes every size as it is

    def answers(inputs: Sequence[np.ndarray]) -> Answers:
        (images,) = inputs
        more = (1 << (len(images) - 1).bit_length()) - len(images) if padded else 0
        p = exported.probabilities(np.pad(images, ((0, more), (0, 0), (0, 0), (0, 0))) if more else images)[: len(images)]
        return p, exported.called(p), [None] * len(p)

    facts = [(card.digest, card.scale, card.intercept, card.threshold, card.quantized)]
    told = [
        _told(name, value, *card.intervals.get(name) or (None, None))
        for name, value in card.test.items()
        if isinstance(value, float) and name in TOLD
    ]
    return Served(
        name=plain_name(name), version=_version(card.step, exported.classes, facts), classes=exported.classes, positive=exported.positive,
        threshold=exported.threshold, ways=(exported.preprocessing,), answers=answers,
        card=Card((f"On the test images of its run: {', '.join(told)}.",) if told else ()),
    )  # fmt: skip


def _version(step: int | None, classes: Sequence[str], facts: list[tuple]) -> str:
    """Returns the version of networks of which each has facts: digest, scale, intercept, threshold, how it is quantized."""
    digest = hashlib.sha256(repr((tuple(classes), facts)).encode()).hexdigest()[:12]
    return digest if step is None else f"{step}-{digest}"


def _told(name: str, value: float, low: float | None, high: float | None) -> str:
    """Returns one number of an exported file's card, with its interval."""
    interval = "too few for an interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{METRICS[name].title} {value:.3f} ({interval})"


def _fastest(answers: Callable, inputs: Sequence[np.ndarray]) -> float:
    """Returns the seconds of the fastest of some calls."""
    return min(timeit.repeat(lambda: answers(inputs), number=1, repeat=5))


def plain_name(name: str | Path) -> str:
    """Returns the last part of a path as a name in addresses."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).resolve().name).strip("-.") or "model"
