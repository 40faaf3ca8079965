"""The networks of a cross-validation as one classifier: the mean of their probabilities."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cnnjax import data as data_lib
from cnnjax import metrics
from cnnjax.config import Preprocessing
from cnnjax.errors import CheckpointError, DataError
from cnnjax.inference.classifier import Classifier, load_one
from cnnjax.runs import RunDirectory, fold_runs, is_crossvalidation


class Ensemble(Classifier):
    """Several classifiers of the same classes, used as one; made by `load` of a cross-validation.

    Attributes:
        members: the classifiers, one of each fold.
        alike: the same ones, those together that take the same pixels of a file.
        classes: names in the order of the probabilities.
        preprocessing: that of the first member. Each has its own, which differ in the range of files with more than 8 bits only.
        step: 0; each member has its own.
        calibration: that of the first member; each has its own.
        threshold: mean of the members' thresholds.
        typical: that of the first member, for its words; an image is unlike the training images where it is so for every member.
    """

    def __init__(self, members: Sequence[Classifier]):
        self.members = tuple(members)
        alike: dict[tuple, list[Classifier]] = {}
        for member in self.members:
            how = member.preprocessing
            alike.setdefault((how.shape, how.resize, how.range), []).append(member)
        self.alike = tuple(map(tuple, alike.values()))
        self.classes = self.members[0].classes
        self.preprocessing = self.members[0].preprocessing
        self.step = 0
        self.calibration = self.members[0].calibration
        self.positive = self.members[0].positive
        self.threshold = float(np.mean([member.threshold for member in self.members]))
        told = all(member.typical for member in self.members)
        self.typical = self.members[0].typical if told else None
        if other := next((member for member in self.members if member.classes != self.classes), None):
            raise CheckpointError(f"the networks have different classes, {', '.join(self.classes)} and {', '.join(other.classes)}; restore the "
                                  "cross-validation from a copy")  # fmt: skip

    @property
    def warning(self) -> str:
        """One line where this process makes other pixels than a network was trained on; "" where they are the same."""
        return next((member.warning for member in self.members if member.warning), "")

    @property
    def ignored(self) -> tuple[str, ...]:
        """A line for each calibration or threshold of a member that is of another checkpoint."""
        return tuple(line for member in self.members for line in member.ignored)

    @property
    def unexplained(self) -> str:
        """Why `explain` does not work: each member looks at places of its own."""
        return "several networks look at places of their own; name the run of one fold with --workdir, or use .members[0] in Python"

    @property
    def params(self) -> NoReturn:
        """Raises DataError: each member has its own."""
        raise DataError("an ensemble has no weights of its own; use those of one network: .members[0].params")

    def apply(self, params: dict[str, Any], batch: Any) -> NoReturn:
        """Raises DataError: each member is a function of its own."""
        raise DataError("an ensemble has no logits of its own; use one network: .members[0].apply(params, batch)")

    def export(self, path: str | os.PathLike[str], kind: str = "", **options: Any) -> NoReturn:
        """Raises DataError: each member is a file of its own."""
        raise DataError("an ensemble is not one network; export one of them: .members[0].export(path)")

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Computes the mean of the members' probabilities, float64 [n, classes]; see `Classifier.predict_proba`."""
        return np.mean([member.predict_proba(images) for member in self.members], axis=0)

    def chunks(
        self, references: Iterable[data_lib.Reference], count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list, Sequence]]:
        """Yields mean probabilities, called classes, how unlike they are and facts of files, decoded once for each preprocessing."""
        streams = itertools.tee(references, len(self.alike))
        decoded = [some[0].decoded(stream, count) for some, stream in zip(self.alike, streams, strict=True)]
        for parts in zip(*decoded, strict=True):
            yield *self.together([pixels for pixels, _ in parts]), parts[0][1]

    def together(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
        """Returns what `read` and `apart` of one classifier do, of the members' mean; `inputs` as `answers` takes them."""
        each = [(member, pixels) for some, pixels in zip(self.alike, inputs, strict=True) for member in some]
        p = np.mean([member.read(pixels)[0] for member, pixels in each], axis=0)
        far = [member.apart(pixels) for member, pixels in each] if self.typical else [[None] * len(p)]
        return p, self._called(p), [min(of) if self.typical else None for of in zip(*far, strict=True)]

    def _called(self, p: np.ndarray) -> np.ndarray:
        """The classes of mean probabilities, int [n]: of two by the mean of the members' thresholds, else the most probable ones."""
        positive = self.members[0].positive
        if positive < 0 or all(member.threshold == metrics.EVEN for member in self.members):
            return p.argmax(1)
        return np.where(p[:, positive] >= self.threshold, positive, 1 - positive)


def ways(classifier: Classifier) -> tuple[Preprocessing, ...]:
    """Returns how files become each array that `answers` takes: one way, or of an ensemble those of its members that differ."""
    return tuple(some[0].preprocessing for some in getattr(classifier, "alike", [[classifier]]))


def answers(classifier: Classifier, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """Answers decoded images.

    Args:
        classifier: one network or several.
        inputs: for each of `ways` uint8 [n, height, width, 3], the same images.

    Returns:
        Calibrated probabilities, float64 [n, classes]; the called classes, int [n]; how unlike the training images each is, None for
        runs without `typical.json`.
    """
    if isinstance(classifier, Ensemble):
        return classifier.together(inputs)
    return *classifier.read(inputs[0]), classifier.apart(inputs[0])


def load(
    workdir: str | Path, step: str | int = "best", *, prevalence: float | None = None, trust_code: bool = False
) -> Classifier:
    """Loads the classifier of a run directory onto this process's devices; of a cross-validation, all of its networks as one.

    Args:
        workdir: a run directory, or that of a cross-validation, wherever it was trained.
        step: "best", "latest" or the number of a checkpoint that was kept.
        prevalence: share of the positive class of two among the images to come; None: as in training. A threshold that was chosen on
            validation moves along and calls the same images.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.

    Raises:
        CheckpointError: no such run or checkpoint, a damaged one, or a cross-validation that has not come to its end.
        ConfigError: code that is not trusted, or a prevalence that this run has no use for.
    """
    run = RunDirectory(workdir)
    if not is_crossvalidation(run):
        return load_one(workdir, step, prevalence=prevalence, trust_code=trust_code)
    return Ensemble([load_one(path, step, prevalence=prevalence, trust_code=trust_code) for path in fold_runs(run)])
