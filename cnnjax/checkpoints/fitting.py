"""Whether the trees of a checkpoint are those that are asked for, and whether there is memory for them; before any is loaded."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore

from cnnjax import runtime
from cnnjax.errors import CheckpointError


def check_fit(folder: Path, saved: Mapping[str, Any], abstract: Mapping[str, Any]) -> None:
    """Compares trees of shapes with those of a checkpoint.

    Args:
        folder: of the checkpoint, named by its step.
        saved: name -> tree, as Orbax tells of it.
        abstract: name -> tree of shapes that are to be loaded.

    Raises:
        CheckpointError: another network, or one that is too large for this machine.
        ValueError: the files are damaged.
    """
    about = f"checkpoint {folder.name} in {folder.parent}"
    need = 4 * sum(math.prod(shape) for tree in abstract.values() for shape in _shapes(tree).values())
    limit = runtime.host_bytes() * jax.process_count()
    if need > limit:
        raise CheckpointError(f"{about} holds a network of {need / 1e9:,.0f} GB, this machine has {limit / 1e9:,.0f} GB; use another machine, "
                              "or another run")  # fmt: skip
    for item, tree in abstract.items():
        want, have = _shapes(tree), _shapes(saved[item])
        if not have:
            raise ValueError(f"its {item} cannot be read")
        different = [k for k in {**want, **have} if want.get(k) != have.get(k)]
        if different:
            k = different[0]
            raise CheckpointError(f"{about} holds another network: {item}{k} is {have.get(k, 'not there')}, the config needs "
                                  f"{want.get(k, 'nothing')}; use another --workdir, or the config of the run")  # fmt: skip
        if array := _oversized(folder / item):
            raise ValueError(f"the parts of {item}/{array} are larger than the whole")


def _oversized(item: Path) -> str:
    """Returns the first array of a saved tree whose chunks are larger than the array: TensorStore would take memory for them; "" for none."""
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}).result()
    for name in store.list().result():
        if name.endswith((b"zarr.json", b".zarray")):
            tree = json.loads(store.read(name).result().value)
            grids = [tree.get("chunks"), tree.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")]
            grids += [codec.get("configuration", {}).get("chunk_shape") for codec in tree.get("codecs", ())]
            for grid in filter(None, grids):
                if len(grid) != len(tree["shape"]) or any(
                    part > max(side, 1) for part, side in zip(grid, tree["shape"], strict=True)
                ):
                    return name.decode(errors="replace")
    return ""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of each array of a tree, or of what Orbax says of a saved one."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "metadata", tree))
    return {_path(path): tuple(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape) for path, leaf in leaves}


def _path(path: Callable) -> str:
    # Saved trees have dicts and lists where the live ones have named tuples.
    return "/" + "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
