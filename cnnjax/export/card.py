"""The facts about a network that go into its exported file: one JSON document under the key `cnnjax`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.metrics import Readout
from cnnjax.models import digest_of
from cnnjax.typed import typed

KEY = "cnnjax"  # of the document, where a format holds several
FORMAT = 1  # of the document; a field that changes its meaning makes it 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that a program needs to use the file, and to say where it comes from.

    Attributes:
        classes: names in the order of the probabilities.
        preprocessing: from an image file to the input, as `Preprocessing.to_dict` has it. Range, mean, deviation and whitening are inside the
            file.
        positive: index of the positive class of two; -1 for more classes.
        threshold: probability of the positive class from which that is called; 0.5 for more classes, of which the most probable is called.
        scale, intercept: of the calibration, which is inside the file: logits times the scale, plus the intercept on the last.
        network: `model.name` of the run.
        run: its name.
        step: of its checkpoint.
        digest: SHA-256 of the weights, 64 hex digits.
        test: name of a metric -> value on the test images of the run; {} without.
        intervals: name of a metric -> [low, high]; None for an end that is not given.
        quantized: "int8", or "" for float32.
        library: that wrote the file, with its version.
        format: of this document.
    """

    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    positive: int = -1
    threshold: float = 0.5
    scale: float = 1.0
    intercept: float = 0.0
    network: str = ""
    run: str = ""
    step: int = 0
    digest: str = ""
    test: dict[str, float | int | None] = dataclasses.field(default_factory=dict)
    intervals: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    quantized: str = ""
    library: str = ""
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON document."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def to_json(self) -> str:
        """Returns the document on one line, in ASCII."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], name: str) -> Self:
        """Returns the card of a document, which may be a stranger's.

        Args:
            tree: the document.
            name: of the file, for errors.

        Raises:
            ConfigError: it is damaged, or of a newer version.
        """
        try:
            if tree["format"] != FORMAT:
                raise ConfigError(
                    f"{name} has facts of format {tree['format']!r}; this version reads {FORMAT}: export the run anew"
                )
            made = typed(tree, cls, "cnnjax")
            count = len(made.classes)
            if count < 2 or len(set(made.classes)) != count or not -1 <= made.positive < (2 if count == 2 else 0):
                raise ValueError(f"{count} classes, positive {made.positive}")
            made.preprocessed  # noqa: B018, it looks at them
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            if isinstance(error, ConfigError) and "format" in str(error):
                raise
            raise ConfigError(f"{name} has facts that are damaged ({error}); export the run anew") from None
        return made

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> Self:
        """Returns the card of a document as text; errors as of `from_dict`."""
        try:
            tree = json.loads(text)
            if not isinstance(tree, Mapping):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{name} has facts that are damaged ({error}); export the run anew") from None
        return cls.from_dict(tree, name)

    @property
    def preprocessed(self) -> Preprocessing:
        """The steps from an image file to the input."""
        return Preprocessing.from_dict(self.preprocessing)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.preprocessed.shape

    def called(self, p: np.ndarray) -> np.ndarray:
        """Returns the class that is called of each row of probabilities [n, classes], int [n]: of two by the threshold."""
        if self.positive < 0 or self.threshold == 0.5:
            return p.argmax(1)
        return np.where(p[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)


def make_card(
    *, classes: Sequence[str], preprocessing: Preprocessing, readout: Readout, arrays: Mapping[str, Any], **facts
) -> Card:
    """Returns the card of a network.

    Args:
        classes, preprocessing: of the network.
        readout: from its logits to probabilities and the class that is called.
        arrays: {"params", "stats"}.
        facts: further fields of `Card`.
    """
    return Card(
        classes=tuple(classes), preprocessing=preprocessing.to_dict(), positive=readout.positive, threshold=readout.threshold,
        scale=readout.scale, intercept=readout.intercept, digest=digest_of(arrays), **facts,
    )  # fmt: skip
