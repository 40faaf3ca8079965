"""Classes of unequal size: the weights of their losses."""

import numpy as np

from cnnjax.data import Dataset
from cnnjax.errors import ConfigError


def class_weights(config, data: Dataset) -> np.ndarray | None:
    """Returns the weights of `train.class_weights`, float32 [classes], whose mean over the training images is 1.

    So the learning rate means what it means without weights. "balanced" gives every class the same sum.

    Raises:
        ConfigError: a class that is not there, or one without a weight.
    """
    entries, classes = config.train.class_weights, data.classes
    if not entries:
        return None
    counts = np.bincount(data.labels[data.splits["train"]], minlength=len(classes))
    weights = 1 / np.maximum(counts, 1) if entries == ("balanced",) else _given(entries, classes)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def supposed_share(config, data: Dataset, positive: int) -> float | None:
    """Returns the share of the positive class that training makes the network suppose: that of its images, sampled and weighted.

    None for more than two classes, and where training has images of one class only.
    """
    counts = np.bincount(data.labels[data.splits["train"]], minlength=len(data.classes))
    if positive < 0 or not counts.all():
        return None
    weights = class_weights(config, data)
    seen = np.ones(2) if config.data.sampling == "balanced" else counts
    seen = seen if weights is None else seen * weights.astype(np.float64)
    return float(seen[positive] / seen.sum())


def _given(entries: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    given = {name: float(weight) for name, _, weight in (entry.rpartition("=") for entry in entries)}
    unknown, missing = [name for name in given if name not in classes], [name for name in classes if name not in given]
    if unknown or missing:
        wrong = f"{unknown[0]!r} is not a class" if unknown else f"{missing[0]!r} has no weight"
        raise ConfigError(f"train.class_weights={','.join(entries)}: {wrong}; write balanced, or "
                          f"{','.join(f'{name}=1' for name in classes[:20])} with other numbers")  # fmt: skip
    return np.array([given[name] for name in classes])
