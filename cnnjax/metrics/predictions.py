"""Predictions of a split: what metrics are computed of."""

import dataclasses
import functools
from collections.abc import Callable

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

    def by_rows(self, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Returns a number of each example, float64 [n], from its calibrated probabilities and its label: `of(p, labels)`, in parts."""
        out = np.empty(len(self.labels))
        if self.calibrated is not None:
            return by_rows(of, out, self.calibrated, self.labels)
        return by_rows(lambda logits, labels: of(probabilities(logits), labels), out, self.logits, self.labels)

    @functools.cached_property
    def own_probability(self) -> np.ndarray:
        """The calibrated probability of the true class of each example, float64 [n]."""
        return self.by_rows(lambda p, labels: p[np.arange(len(p)), labels])

    @functools.cached_property
    def squares(self) -> np.ndarray:
        """The sum of the squared calibrated probabilities of each example, float64 [n]."""
        return self.by_rows(lambda p, labels: (p**2).sum(1))

    @functools.cached_property
    def margin(self) -> np.ndarray:
        """The logit of the positive class of two above that of the other, float [n].

        Orders are by logits: probabilities of very certain images round to the same 1.0.
        """
        margin = self.logits[:, -1] - (self.logits[:, 0] if self.logits.shape[1] == 2 else 0.0)
        return margin if self.positive else -margin

    @functools.cached_property
    def odds(self) -> np.ndarray:
        """The log odds of each class against all others, float64 [n, classes]."""
        z = np.asarray(self.logits, np.float64)
        if z.shape[1] == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        rows, best = np.arange(len(z)), z.argmax(1)
        top = z[rows, best]
        rest = np.exp(z - top[:, None])
        rest = rest.sum(1, keepdims=True) - rest  # holds the 1 of the best class, except in its own column
        rest[rows, best] = 1.0
        odds = z - top[:, None] - np.log(rest)
        others = z.copy()
        others[rows, best] = -np.inf
        second = others.max(1)
        odds[rows, best] = top - second - np.log(np.exp(others - second[:, None]).sum(1))
        return odds

    def against_others(self, one: int) -> "Predictions":
        """Returns the predictions of one class as a task of two: that class, which is the positive one, and all others."""
        return Predictions(
            self.odds[:, [one]], (self.labels == one).astype(int), 1, decided=(self.called == one).astype(int)
        )

    def kept(self, rows: np.ndarray) -> "Predictions":
        """Returns the predictions of some examples, bool [n] or int."""
        part = lambda values: None if values is None else values[rows]  # noqa: E731
        return dataclasses.replace(self, logits=self.logits[rows], labels=self.labels[rows], calibrated=part(self.calibrated),
                                   decided=part(self.decided))  # fmt: skip
