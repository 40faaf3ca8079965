"""Lines about results that look better than they are."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.metrics.table import UNEVEN

LEARNED = 0.98  # accuracy on training images that says that they are known by heart


def doubts(evaluations: Mapping[str, Mapping]) -> list[str]:
    """Returns one line for each reason to doubt an accuracy, and what to do.

    Args:
        evaluations: split -> an evaluation with its "classes" and "confusion" (images, [true class][predicted class]). The last of
            test and val that is there is judged, train is compared with.
    """
    judged = next((name for name in ("test", "val") if name in evaluations), None)
    if judged is None:
        return []
    classes = tuple(evaluations[judged]["classes"])
    confusion = np.asarray(evaluations[judged]["confusion"])
    right, true = confusion.diagonal(), confusion.sum(1)
    largest, share = classes[true.argmax()], true.max() / true.sum()
    accuracy = right.sum() / true.sum()
    balanced = (right[true > 0] / true[true > 0]).mean()
    said = []
    if share * len(classes) >= UNEVEN or accuracy <= share:
        said.append(f"{judged}: always saying {largest} would have accuracy {share:.4f}, this network has {accuracy:.4f}; the mean over "
                    f"classes (balanced accuracy) is {balanced:.4f}")  # fmt: skip
    said += _never_said(judged, confusion, classes)
    if "train" in evaluations:
        known = np.asarray(evaluations["train"]["confusion"])
        by_heart = known.diagonal().sum() / known.sum()
        if by_heart >= LEARNED and accuracy <= share:
            said.append(f"the training images are known by heart (accuracy {by_heart:.4f}), and {judged} is no better than always saying "
                        f"{largest}; add images, --config.augment=light or --config.model.dropout_features=0.3")  # fmt: skip
    return said


def _never_said(split: str, confusion: np.ndarray, classes: Sequence[str]) -> list[str]:
    never = [f"{name} ({count:,} images)" for name, count, called in
             zip(classes, confusion.sum(1), confusion.sum(0), strict=True) if count and not called]  # fmt: skip
    if not never:
        return []
    return [f"{split}: no image is ever called {', '.join(never[:5])}{', ...' if len(never) > 5 else ''}; the accuracy says nothing about "
            "that; add such images, train longer, or try a smaller --config.optimizer.learning_rate"]  # fmt: skip
