"""Logistic regression of fixed features, for every penalty of a path: the strongest first, each from the solution before."""

import dataclasses

import numpy as np
from scipy import linalg, optimize, special

LARGE = 4096  # features, or images where these are fewer, above which directions of the same spread are not looked for
STEPS = 500  # of the solver for one penalty
ENOUGH = 1e-6  # gradient of the mean loss along a scaled direction, at which the solver ends
FLAT = 1e-6  # least curvature by which a direction is scaled


@dataclasses.dataclass(frozen=True)
class Head:
    """A dense layer: `features @ kernel + bias` are logits.

    Attributes:
        kernel: float32 [features, outputs].
        bias: float32 [outputs].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [images, outputs] of float32 features [images, features]."""
        return features @ self.kernel + self.bias


class Regression:
    """Logistic regressions of the same training images, with a penalty on the squares of the coefficients of standardised features.

    The solution is that of scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty))`, and the
    standardisation is folded into the layer. L-BFGS (Liu and Nocedal 1989, doi:10.1007/BF01589116) needs few steps where all
    directions have the same curvature. The penalty does not depend on directions. So the features are turned to their principal
    directions, and each is scaled by its curvature at the solution before.

    Args:
        features: float32 [images, features].
        labels: int [images].
        outputs: 1: logits of the second of two classes; else one for each class.
        weights: float [images], of the losses.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, outputs: int, weights: np.ndarray):
        self._mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        # A feature that is the same everywhere has a deviation of rounding errors.
        same = deviation <= 10 * np.finfo(np.float32).eps * np.abs(self._mean)
        self._deviation = np.where(same, 1.0, deviation)
        x = (features - self._mean) / self._deviation
        self._basis, self._spread = _directions(x)
        self._x = x if self._basis is None else x @ self._basis
        self._labels, self._weights = labels, weights.astype(np.float64)[:, None]
        self._total = self._weights.sum()
        self._solution = np.zeros((self._x.shape[1] + 1, outputs))
        share = np.bincount(labels, self._weights[:, 0], minlength=max(outputs, 2)) / self._total
        self._curvature = (share * (1 - share))[-outputs:]

    def fit(self, penalty: float) -> tuple[Head, int]:
        """Returns the layer with the least sum of losses plus penalty / 2 times the sum of squares, and the passes over the images.

        The first penalty is a strong one; each other is fitted from the solution of the one before.
        """
        curvature = np.maximum(self._curvature, FLAT)
        scale = 1 / np.sqrt(curvature * np.append(self._spread, 1.0)[:, None] + penalty / self._total)
        scale[-1] = 1 / np.sqrt(curvature)

        def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            solution = scaled.reshape(scale.shape) * scale
            each, slope, _ = _losses(self._logits(solution), self._labels)
            slope *= self._weights
            gradient = solution * penalty
            # Not x.T @ slope, for which OpenBLAS takes ten times as long.
            gradient[:-1] += (slope.T @ self._x).T
            gradient[-1] = slope.sum(0)
            value = each @ self._weights[:, 0] + penalty / 2 * (solution[:-1] ** 2).sum()
            return value / self._total, (gradient * scale / self._total).ravel()

        found = optimize.minimize(loss, (self._solution / scale).ravel(), jac=True, method="L-BFGS-B",
                                  options={"maxiter": STEPS, "gtol": ENOUGH, "ftol": 0, "maxcor": 20})  # fmt: skip
        self._solution = found.x.reshape(scale.shape) * scale
        self._curvature = (_losses(self._logits(self._solution), self._labels)[2] * self._weights).sum(0) / self._total
        return self._folded(), found.nfev

    def _logits(self, solution: np.ndarray) -> np.ndarray:
        return (self._x @ solution[:-1]) + solution[-1]

    def _folded(self) -> Head:
        """The layer of features as they are."""
        turned = self._solution[:-1]
        kernel = (turned if self._basis is None else self._basis @ turned) / self._deviation[:, None]
        return Head(kernel.astype(np.float32), (self._solution[-1] - self._mean @ kernel).astype(np.float32))


def _directions(x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The principal directions of standardised features, [features, directions], None for the features themselves; the mean square
    along each."""
    images, features = x.shape
    if min(images, features) > LARGE:
        return None, np.square(x).mean(0)
    if features <= images:
        spread, basis = linalg.eigh((x.T @ x) / images)
        return basis, np.maximum(spread, 0)
    spread, left = linalg.eigh((x @ x.T) / images)
    kept = spread > 1e-6 * spread[-1]  # along the others the images do not differ
    return (x.T @ left[:, kept]) / np.sqrt(spread[kept] * images), spread[kept]


def _losses(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cross-entropy of each image, float64 [images]; its slope by the logits, and its curvature, float64 [images, outputs]."""
    if logits.shape[1] == 1:
        sign = 2.0 * labels[:, None] - 1
        wrong = special.expit(-sign * logits)
        return np.logaddexp(0, -sign * logits)[:, 0], -sign * wrong, wrong * (1 - wrong)
    found = special.log_softmax(logits, 1)
    probabilities, rows = np.exp(found), np.arange(len(logits))
    slope = probabilities.copy()
    slope[rows, labels] -= 1
    return -found[rows, labels], slope, probabilities * (1 - probabilities)
