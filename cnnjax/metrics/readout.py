"""From a network's logits to probabilities and to the class that is called."""

import dataclasses

import numpy as np
from scipy.special import expit, logit

from cnnjax.metrics import scores

EVEN = 0.5  # the threshold at which the most probable class is called, as for more than two classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readout:
    """Scale, intercept and threshold; the default leaves probabilities as they are and calls the most probable class.

    Attributes:
        scale: factor of all logits, 1 / temperature.
        intercept: added to the scaled logit of the second of two classes.
        threshold: probability of the positive class from which that class is called, of two.
        positive: index of the positive class of two; -1 for more classes.
    """

    scale: float = 1.0
    intercept: float = 0.0
    threshold: float = EVEN
    positive: int = -1

    def logits(self, raw: np.ndarray) -> np.ndarray:
        """Returns calibrated logits, float64, of logits [n, classes] or [n, 1] of the second of two classes."""
        z = self.scale * np.asarray(raw, np.float64)
        if self.intercept:
            z[:, -1] += self.intercept
        return z

    def probabilities(self, raw: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities, float64 [n, classes], of logits as in `logits`."""
        return scores.probabilities(self.logits(raw))

    def called(self, raw: np.ndarray) -> np.ndarray:
        """Returns the class that is called of each example, int32 [n].

        At 0.5 that is the most probable class, of two equal ones the first. A scale does not change it, not even by rounding.
        """
        if self.threshold == EVEN:
            return scores.called(self.logits(raw) if self.intercept else raw)
        return scores.by_rows(self._by_threshold, np.empty(len(raw), np.int32), raw)

    def _by_threshold(self, raw: np.ndarray) -> np.ndarray:
        return np.where(self.probabilities(raw)[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)

    def at_prevalence(self, prevalence: float, share: float, *, follows: bool) -> "Readout":
        """Returns the readout for another share of the positive class: logit(prevalence) - logit(share) is added to its logit.

        Args:
            prevalence: share of the positive class where the network is used, between 0 and 1.
            share: that which the probabilities suppose.
            follows: the threshold moves too, so that the same images are called: it was chosen for what it does to them.
        """
        shift = float(logit(prevalence) - logit(share))
        threshold = float(expit(logit(self.threshold) + shift)) if follows else self.threshold
        return dataclasses.replace(
            self, intercept=self.intercept + (shift if self.positive else -shift), threshold=threshold
        )


def positive_logit(logits: np.ndarray, positive: int) -> np.ndarray:
    """Returns log p - log(1 - p) of the positive of two classes, float64 [n], clipped to +-745; logits as in `Readout.logits`."""
    z = np.asarray(logits, np.float64)
    z = z[:, 0] if z.shape[1] == 1 else z[:, 1] - z[:, 0]
    return np.clip(z if positive else -z, -745, 745)
