"""Published weights: the names and layouts that other collections give to a network's arrays, and what they expect of images."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

# Pairs of a regular expression and its replacement, applied in turn to the path of a module here, such as "block1_2.conv1";
# they give its path there, such as "layer1.1.conv1". (":gamma", "layer_scale") renames a parameter, not a module.
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# By the name of a parameter or a statistic here: its name in PyTorch. Others have the same name in both.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
OWN = ("whiten",)  # layers that are fitted to the training images, which no collection has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """The images that published weights were trained on; the values are those of ImageNet and most of its networks.

    Attributes:
        mean: of pixels in [0, 1], subtracted from each channel.
        deviation: divides each channel after the subtraction.
        size: pixels, height and width.
        resize: one of `image.resize`.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size: int = 224
    resize: str = "bilinear"


def reference_name(path: Sequence[str], rules: Rules) -> str:
    """Returns the name that a collection gives to an array.

    Args:
        path: of the array here, such as ("block1_2", "conv1", "kernel").
        rules: of the collection.
    """
    module, leaf = ".".join(path[:-1]), path[-1]
    for pattern, replacement in rules:
        if pattern.startswith(":"):
            leaf = replacement if leaf == pattern[1:] else leaf
        else:
            module = re.sub(pattern, replacement, module)
    return f"{module}.{LEAVES.get(leaf, leaf)}".removeprefix(".")


def reference_names(paths: Iterable[tuple[str, ...]], rules: Rules) -> dict[tuple[str, ...], str]:
    """Returns the name in a collection of each array that collections have, by its path here."""
    return {path: reference_name(path, rules) for path in paths if path[0] not in OWN}


def from_reference(path: Sequence[str], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of PyTorch in the layout that it has here: OIHW -> HWIO, [units, inputs] -> [inputs, units].

    Args:
        path: of the array here.
        array: as published.
        shape: that it has here. Axes of length 1 are dropped or added, as of a dense layer that is a 1x1 convolution there; an array
            of another shape stays so.
    """
    found = array.transpose(_order(path, array.ndim, (2, 3, 1, 0)))
    return found.reshape(shape) if _long(found.shape) == _long(shape) else found


def to_reference(path: Sequence[str], array: np.ndarray) -> np.ndarray:
    """Reverses `from_reference`."""
    return array.transpose(_order(path, array.ndim, (3, 2, 0, 1)))


def _long(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _order(path: Sequence[str], ndim: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The order of axes that brings a kernel from one layout to the other; of other arrays the order that they have."""
    if path[-1] != "kernel":
        return tuple(range(ndim))
    return {4: kernel, 2: (1, 0)}.get(ndim, tuple(range(ndim)))


References = Mapping[str, Rules]  # by the name of a collection
