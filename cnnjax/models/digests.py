"""The digest of a network's arrays, by which the same weights are known."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util


def digest_of(arrays: Mapping[str, Any], fetch: Callable[[Any], np.ndarray] = np.asarray) -> str:
    """Returns the SHA-256 of names, shapes and bytes of nested dicts of arrays, 64 hex digits.

    Args:
        arrays: such as {"params", "stats"}.
        fetch: brings one array to the host, where it may be divided among devices.
    """
    found = hashlib.sha256()
    for path, array in sorted(traverse_util.flatten_dict(arrays).items()):
        array = np.ascontiguousarray(fetch(array))
        found.update(f"{'/'.join(path)} {array.dtype} {array.shape}\n".encode())
        found.update(array.data)
    return found.hexdigest()
