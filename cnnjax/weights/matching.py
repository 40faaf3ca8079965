"""Arrays of a file of weights, brought to the names, layouts and shapes of a network here."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from flax import traverse_util

from cnnjax.errors import ConfigError
from cnnjax.models import Network, Rules, from_reference, reference_names
from cnnjax.weights.files import Tensors

# Counters and tokens of the training there, of which evaluation knows nothing.
IGNORED = re.compile(r"(^|\.)(num_batches_tracked|mask_token|total_ops|total_params)$|^whiten\.")  # whitening is fitted anew
OWN = "cnnjax"  # the names of a file that was exported here of a network that no collection has
SHOWN = 6
STEM = 64  # pixels below which networks here have a smaller stem than published ones

ArrayPath = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Matched:
    """The arrays of a file that a network takes.

    Attributes:
        arrays: path in the network -> float32 array of the shape there.
        collection: whose names the file has, such as timm.
        new: paths of the last layer, which begins anew; () where the file's fits.
    """

    arrays: dict[ArrayPath, np.ndarray]
    collection: str
    new: tuple[ArrayPath, ...]


def match(tensors: Tensors, network: Network, title: str, name: str) -> Matched:
    """Finds and reads the arrays of a network; every one of them but the last layer is taken from the file.

    Args:
        tensors: of the file.
        network: that takes them.
        title: of the weights, for errors.
        name: of the network, for errors.

    Raises:
        ConfigError: an array is missing, left over or of a shape that cannot be made to fit; the line names both sides.
    """
    shapes = {path: tuple(leaf.shape) for tree in network.shapes for path, leaf in traverse_util.flatten_dict(tree).items()}
    collection, names = _collection(tensors, network, shapes, title, name)
    head = network.model.layers[-1].module
    missing, misfits, arrays, new = [], [], {}, []
    for path, there in names.items():
        if there not in tensors.shapes:
            (new if path[0] == head else missing).append(path if path[0] == head else there)
        elif _shape_here(path, tensors.shapes[there], shapes[path]) == shapes[path]:
            array = from_reference(path, tensors.read(there), shapes[path])
            fitted = _refitted(network, path, array, shapes[path])
            arrays[path] = array if fitted is None else fitted
        elif path[0] == head:
            new.append(path)
        elif (
            array := _refitted(network, path, from_reference(path, tensors.read(there), shapes[path]), shapes[path])
        ) is not None:
            arrays[path] = array
        else:
            misfits.append((path, there))
    left = [own for own in tensors.shapes if own not in set(names.values()) and not IGNORED.search(own)]
    if missing or left or misfits:
        said = [*_sides(missing, left), *_shapes(misfits, shapes, tensors)]
        small = min(network.model.preprocessing.shape) < STEM and any(
            _kernels_differ(path, shapes, tensors.shapes[there]) for path, there in misfits
        )
        advice = f"use --config.image.size={STEM} or more" if small else "use another --config.model.name, or other weights"
        raise ConfigError(f"{title} does not fit model.name={name}: {'; '.join(said)}; {advice}")
    return Matched({path: arrays[path] for path in names if path in arrays}, collection, tuple(new))


def _collection(tensors: Tensors, network: Network, shapes: dict[ArrayPath, tuple[int, ...]], title: str, name: str
                ) -> tuple[str, dict[ArrayPath, str]]:  # fmt: skip
    """Returns the collection whose names the file has most of, and the name there of each array here."""
    references: dict[str, Rules] = {**network.model.references, OWN: ()}
    named = {collection: reference_names(shapes, rules) for collection, rules in references.items()}
    best = max(named, key=lambda collection: sum(there in tensors.shapes for there in named[collection].values()))
    found = sum(there in tensors.shapes for there in named[best].values())
    if not network.model.references and 2 * found < len(named[best]):  # a name such as conv1.weight is in many files
        raise ConfigError(f"{title}: no published weights are known of model.name={name}; use a network that has some, such as "
                          "--config.model.name=resnet18, or run:DIR of another run, or a file that --mode=export wrote of one")  # fmt: skip
    if not found:
        raise ConfigError(f"{title}: none of its arrays ({_some(list(tensors.shapes))}) is one of model.name={name}, such as "
                          f"{_some(list(named[best].values())[:3])}; use the --config.model.name that it is of")  # fmt: skip
    return best, named[best]


def _refitted(network: Network, path: ArrayPath, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    found = network.model.refitted(path, array, shape)
    return None if found is None or found.shape != shape else np.asarray(found, np.float32)


def _shape_here(path: ArrayPath, there: Sequence[int], here: tuple[int, ...]) -> tuple[int, ...]:
    return from_reference(path, np.broadcast_to(np.float32(0), there), here).shape


def _kernels_differ(path: ArrayPath, shapes: dict[ArrayPath, tuple[int, ...]], there: Sequence[int]) -> bool:
    """Whether the kernel of a convolution covers more places there than here."""
    return path[-1] == "kernel" and len(shapes[path]) == len(there) == 4 and tuple(there[2:]) > shapes[path][:2]


def _sides(missing: Sequence[str], left: Sequence[str]) -> Iterator[str]:
    if missing:
        yield f"it lacks {_some(missing)}"
    if left:
        yield f"left over are {_some(left)}"


def _shapes(misfits: Sequence[tuple[ArrayPath, str]], shapes, tensors: Tensors) -> Iterator[str]:
    if misfits:
        yield "of another shape are " + _some([
            f"{there} {list(tensors.shapes[there])} (here {'.'.join(path)} {list(shapes[path])})" for path, there in misfits
        ])  # fmt: skip


def _some(names: Sequence[str]) -> str:
    """At most six of the names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
