"""Writes parity.json: logits of torchvision and timm for drawn weights, `python tests/models/make_parity.py [NAME ...]`.

It needs torch, torchvision and timm, and not cnnjax. The tests need none of these: they read the file.
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from parity_draws import array, images

FILE = Path(__file__).with_name("parity.json")
CLASSES, COUNT = 5, 4

# "network here/collection": size of the images in pixels, and the name there.
SIDES = {
    "resnet18/torchvision": (64, "resnet18"),
    "resnet34/timm": (64, "resnet34"),
    "resnet50/torchvision": (64, "resnet50"),
}


def made(collection: str, name: str, size: int) -> torch.nn.Module:
    """The network of a collection, with drawn weights."""
    if collection == "torchvision":
        network = getattr(torchvision.models, name)(num_classes=CLASSES)
    else:
        network = timm.create_model(name, num_classes=CLASSES, **({"img_size": size} if "vit" in name else {}))
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.from_numpy(array(key, tuple(value.shape)))
    network.load_state_dict(state)
    return network


def without_dropout(network: torch.nn.Module) -> torch.nn.Module:
    """The network in training mode, but with all of its activations."""
    network.train()
    for module in network.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return network


def logits(side: str) -> dict:
    """The row of one network."""
    collection, (size, name) = side.split("/")[1], SIDES[side]
    network = made(collection, name, size)
    x = torch.from_numpy(
        np.ascontiguousarray(images(COUNT, size).transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    )
    with torch.no_grad():
        evaluated = network.eval()(x)
        trained = without_dropout(network)(x)
    rows = {"eval": evaluated, "train": trained}
    return {"size": size, "reference": name} | {
        k: [[float(f"{z:.8g}") for z in row] for row in v.tolist()] for k, v in rows.items()
    }


def main() -> None:
    chosen = sys.argv[1:] or list(SIDES)
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    rows |= {side: logits(side) for side in SIDES if any(side.startswith(name) for name in chosen)}
    FILE.write_text(json.dumps({side: rows[side] for side in sorted(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
