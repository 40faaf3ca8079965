"""Writes parity.json: logits of torchvision and timm for drawn weights, `python tests/models/make_parity.py [NAME ...]`.

It needs torch, torchvision and timm, and not cnnjax. The tests need none of these: they read the file.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import parity_small
import timm
import torch
import torchvision
from parity_draws import array, digest, images

FILE = Path(__file__).with_name("parity.json")
CLASSES, COUNT = 5, 4
# Of the kernels of convolutions. With a small one the images hardly matter after many blocks, with a large one rounding does.
GAINS = (2, 1.8, 1.6, 1.41)

CONVNEXT = {"depths": (1, 2, 1, 1), "widths": (8, 12, 16, 24)}
DENSENET = {"depths": (2, 1, 1), "growth": 8}
EFFICIENT, EFFICIENT_V2 = {"depths": (1, 2, 1, 1, 1, 1, 1)}, {"depths": (1, 2, 1, 1, 1, 2)}
MOBILE = {"depths": (1, 2, 1, 1, 2, 1)}
# "network here/collection": size of the images in pixels, the name there or what makes it, and arguments that both take, for
# fewer blocks.
SIDES = {
    "convnext_nano/timm": (64, parity_small.convnext_timm_convolved, CONVNEXT),
    "convnext_tiny/timm": (64, parity_small.convnext_timm, CONVNEXT),
    "convnext_tiny/torchvision": (64, parity_small.convnext_torchvision, CONVNEXT),
    "densenet121/timm": (64, parity_small.densenet_timm, DENSENET),
    "densenet121/torchvision": (64, parity_small.densenet_torchvision, DENSENET),
    "resnet18/torchvision": (64, "resnet18"),
    "resnet34/timm": (64, "resnet34"),
    "resnet50/torchvision": (64, "resnet50"),
    "vit_tiny/timm": (64, "vit_tiny_patch16_224", {"depth": 2}),
    "vit_small/timm": (32, "vit_small_patch16_224", {"depth": 2}),
    "dinov2_small/timm": (28, "vit_small_patch14_dinov2", {"depth": 2}),
    "efficientnet_b0/timm": (64, "efficientnet_b0", EFFICIENT),
    "efficientnet_b0/torchvision": (64, "efficientnet_b0", EFFICIENT),
    "efficientnet_lite0/timm": (64, "tf_efficientnet_lite0", EFFICIENT),
    "efficientnetv2_s/torchvision": (64, "efficientnet_v2_s", EFFICIENT_V2),
    "mobilenetv3_large/torchvision": (64, "mobilenet_v3_large", MOBILE),
    "mobilenetv3_large_100/timm": (64, "mobilenetv3_large_100", MOBILE),
    "tf_efficientnetv2_s/timm": (64, "tf_efficientnetv2_s", EFFICIENT_V2),
}


def made(collection: str, name, size: int, gain: float, **options) -> torch.nn.Module:
    """The network of a collection, with drawn weights."""
    depths = () if callable(name) else options.pop("depths", ())
    if callable(name):
        network = name(num_classes=CLASSES, **options)
    elif collection == "torchvision":
        network = getattr(torchvision.models, name)(num_classes=CLASSES, **options)
    else:
        options |= {"img_size": size} if "vit" in name else {}
        network = timm.create_model(name, num_classes=CLASSES, **options)
    network = parity_small.shortened(network, depths) if depths else network
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.from_numpy(array(key, tuple(value.shape), gain))
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


def arrays(collection: str, name: str) -> str:
    """The digest of the arrays of a whole network for 224 pixels and 1000 classes."""
    made = getattr(torchvision.models, name) if collection == "torchvision" else functools.partial(timm.create_model, name)
    with torch.device("meta"):
        network = made(num_classes=1000, **({"img_size": 224} if "vit" in name else {}))
    return digest({k: v.numel() for k, v in network.state_dict().items() if v.is_floating_point()})


def logits(side: str) -> dict:
    """The row of one network; of one that training mode does not change, without the logits of that mode."""
    collection, (size, name, *more) = side.split("/")[1], SIDES[side]
    options = more[0] if more else {}
    x = images(COUNT, size).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    x = torch.from_numpy(np.ascontiguousarray(x))
    for gain in GAINS:
        network = made(collection, name, size, gain, **options)
        with torch.no_grad():
            rounded = network.eval()(x)
            found = network.double()(x.double())
            trained = without_dropout(network)(x.double())  # which changes the running averages
        largest = found.abs().max()
        if (found - found.mean(0)).abs().max() > 0.01 * largest and (found - rounded).abs().max() < 2e-6 * largest:
            break
    else:
        raise ValueError(f"{side}: no gain at which images matter and rounding does not")
    rows = {"eval": found} | ({} if found.equal(trained) else {"train": trained})
    whole = side.split("/")[0] if callable(name) else name
    return {"size": size, "gain": gain, "reference": whole, "options": options, "arrays": arrays(collection, whole)} | {
        k: [[float(f"{z:.8g}") for z in row] for row in v.tolist()] for k, v in rows.items()
    }


def main() -> None:
    chosen = sys.argv[1:] or list(SIDES)
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    rows |= {side: logits(side) for side in SIDES if any(side.startswith(name) for name in chosen)}
    FILE.write_text(json.dumps({side: rows[side] for side in sorted(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
