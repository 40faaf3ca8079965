"""Predictions of a split: what metrics are computed of."""

import dataclasses
import functools

import numpy as np

from cnnjax.metrics.scores import by_rows, called, probabilities


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Logits of every example of a split, each once, and the truth.

    Attributes:
        logits: float [n, classes], or [n, 1] of the second of two classes; as the network gives them.
        labels: int [n].
        positive: the positive class of two; -1 for more classes.
        calibrated: float64 [n, classes], probabilities after calibration; None: those of the logits.
        decided: int [n], the class that is called, by a threshold; None: the most probable one.
        prevalence: share of the positive class where the network will be used; 0: not stated.
    """

    logits: np.ndarray
    labels: np.ndarray
    positive: int = -1
    calibrated: np.ndarray | None = None
    decided: np.ndarray | None = None
    prevalence: float = 0.0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return max(self.logits.shape[1], 2)

    @functools.cached_property
    def called(self) -> np.ndarray:
        """The class that is called for each example, int [n]."""
        return called(self.logits) if self.decided is None else self.decided

    @property
    def is_positive(self) -> np.ndarray:
        """Marks the examples of the positive class, bool [n]."""
        return self.labels == self.positive

    def probabilities(self, rows: slice = slice(None)) -> np.ndarray:
        """Returns the calibrated probabilities of some examples, float64 [rows, classes]."""
        return probabilities(self.logits[rows]) if self.calibrated is None else self.calibrated[rows]

    @functools.cached_property
    def own_probability(self) -> np.ndarray:
        """The calibrated probability of the true class of each example, float64 [n]."""
        if self.calibrated is not None:
            return self.calibrated[np.arange(len(self.labels)), self.labels]
        own = lambda logits, labels: probabilities(logits)[np.arange(len(labels)), labels]  # noqa: E731
        return by_rows(own, np.empty(len(self.labels)), self.logits, self.labels)

    @functools.cached_property
    def margin(self) -> np.ndarray:
        """The logit of the positive class of two above that of the other, float [n].

        Orders are by logits: probabilities of very certain images round to the same 1.0.
        """
        margin = self.logits[:, -1] - (self.logits[:, 0] if self.logits.shape[1] == 2 else 0.0)
        return margin if self.positive else -margin

    def margin_of(self, one: int) -> np.ndarray:
        """Returns the log odds of one class against all others, float64 [n], of logits [n, classes]."""
        z = np.asarray(self.logits, np.float64)
        others = np.delete(z, one, axis=1)
        top = others.max(1)
        return z[:, one] - top - np.log(np.exp(others - top[:, None]).sum(1))

    def kept(self, rows: np.ndarray) -> "Predictions":
        """Returns the predictions of some examples, bool [n] or int."""
        part = lambda values: None if values is None else values[rows]  # noqa: E731
        return dataclasses.replace(self, logits=self.logits[rows], labels=self.labels[rows], calibrated=part(self.calibrated),
                                   decided=part(self.decided))  # fmt: skip
