"""The networks of a cross-validation as one classifier: the mean of their probabilities."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from cnnjax import data as data_lib
from cnnjax.errors import CheckpointError, DataError
from cnnjax.inference.classifier import Classifier, load_one
from cnnjax.runs import RunDirectory, fold_runs, is_crossvalidation


class Ensemble(Classifier):
    """Several classifiers of the same classes, used as one; made by `load` of a cross-validation.

    Attributes:
        members: the classifiers, one of each fold.
        classes: names in the order of the probabilities.
        preprocessing: that of the first member. Each has its own, which differ in the range of files with more than 8 bits only.
        step: 0; each member has its own.
        typical: that of the first member, for its words; an image is unlike the training images where it is so for every member.
    """

    def __init__(self, members: Sequence[Classifier]):
        self.members = tuple(members)
        self.classes = self.members[0].classes
        self.preprocessing = self.members[0].preprocessing
        self.step = 0
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
    def unexplained(self) -> str:
        """Why `explain` does not work: each member looks at places of its own."""
        return "several networks look at places of their own; use one of them: .members[0], or --workdir of one fold"

    @property
    def params(self) -> NoReturn:
        """Raises DataError: each member has its own."""
        raise DataError("an ensemble has no weights of its own; use those of one network: .members[0].params")

    def apply(self, params: dict[str, Any], batch: Any) -> NoReturn:
        """Raises DataError: each member is a function of its own."""
        raise DataError("an ensemble has no logits of its own; use one network: .members[0].apply(params, batch)")

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Computes the mean of the members' probabilities, float64 [n, classes]; see `Classifier.predict_proba`."""
        return np.mean([member.predict_proba(images) for member in self.members], axis=0)

    def chunks(
        self, references: Iterable[data_lib.Reference], count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list, Sequence]]:
        """Yields mean probabilities, called classes, how unlike they are and facts of files, decoded once for each preprocessing."""
        alike: dict[tuple, list[Classifier]] = {}
        for member in self.members:
            how = member.preprocessing
            alike.setdefault((how.shape, how.resize, how.range), []).append(member)
        streams = itertools.tee(references, len(alike))
        decoded = [some[0].decoded(stream, count) for some, stream in zip(alike.values(), streams, strict=True)]
        for parts in zip(*decoded, strict=True):
            inputs = [(member, pixels) for some, (pixels, _) in zip(alike.values(), parts, strict=True) for member in some]
            p = np.mean([member.read(pixels)[0] for member, pixels in inputs], axis=0)
            far = [member.apart(pixels) for member, pixels in inputs] if self.typical else [[None] * len(p)]
            yield p, p.argmax(1), [min(of) if self.typical else None for of in zip(*far, strict=True)], parts[0][1]


def load(workdir, step: str | int = "best", *, trust_code: bool = False) -> Classifier:
    """Loads the classifier of a run directory onto this process's devices; of a cross-validation, all of its networks as one.

    Args:
        workdir: a run directory, or that of a cross-validation, wherever it was trained.
        step: "best", "latest" or the number of a checkpoint that was kept.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.

    Raises:
        CheckpointError: no such run or checkpoint, a damaged one, or a cross-validation that has not come to its end.
        ConfigError: code that is not trusted.
    """
    run = RunDirectory(workdir)
    if not is_crossvalidation(run):
        return load_one(workdir, step, trust_code=trust_code)
    return Ensemble([load_one(path, step, trust_code=trust_code) for path in fold_runs(run)])
