"""Weights as safetensors, under the names of the collection that publishes such networks, so that its own code loads them."""

import re
from pathlib import Path

import numpy as np
from flax import traverse_util

from cnnjax.errors import ConfigError
from cnnjax.export.card import KEY
from cnnjax.export.portable import Portable
from cnnjax.models import Rules, reference_names, to_reference

# (model.name, collection) -> names of the arrays with two axes of length 1 more there: dense layers that are 1x1 convolutions.
CONVOLVED = {
    ("convnext_nano", "timm"): r"\.mlp\.fc\d\.weight$",
    ("mobilenetv3_large_100", "timm"): r"^conv_head\.weight$",
}
OWN = "cnnjax"  # names where no collection has such a network: the paths here, with PyTorch's endings and layouts


def collection_of(portable: Portable) -> tuple[str, Rules]:
    """Returns the collection whose names are used, timm where it has the network, and its rules."""
    references = portable.network.model.references
    name = "timm" if "timm" in references else next(iter(references), OWN)
    return name, references.get(name, ())


def tensors(portable: Portable) -> dict[str, np.ndarray]:
    """Returns the arrays in PyTorch's layouts, by their names in the collection; whitening has its name here."""
    collection, rules = collection_of(portable)
    longer = CONVOLVED.get((portable.card.network, collection), "$^")
    flat = {path: array for tree in portable.arrays.values() for path, array in traverse_util.flatten_dict(tree).items()}
    names = reference_names(flat, rules)
    found = {}
    for path, array in flat.items():
        name = names.get(path, ".".join(path))
        there = to_reference(path, array) if path in names else array
        found[name] = np.ascontiguousarray(there[..., None, None] if re.search(longer, name) else there)
    return found


def write(portable: Portable, path: Path) -> None:
    """Writes the weights with the facts in the file's metadata, reads them back and compares each bit.

    Raises:
        ConfigError: the file holds other numbers than the network.
    """
    from safetensors.numpy import load_file, save

    wanted = tensors(portable)
    facts = {"format": "pt", "names": collection_of(portable)[0], KEY: portable.card.to_json()}
    path.write_bytes(save(wanted, metadata=facts))  # save_file makes a file that its owner alone may read
    found = load_file(path)
    if found.keys() != wanted.keys() or any(found[name].tobytes() != array.tobytes() for name, array in wanted.items()):
        raise ConfigError(
            "the file that was written holds other numbers than the network; nothing is kept: look at the disk"
        )
