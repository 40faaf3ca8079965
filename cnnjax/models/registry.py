"""The registry of networks: `model.name` is one of its keys, or names a network of the user's own."""

import functools
from collections.abc import Callable

from cnnjax.models.convnet import ConvNet
from cnnjax.models.layers import Layered
from cnnjax.models.resnet import ResNet, basic, bottleneck
from cnnjax.models.vit import DINOv2, ViT

# Called as (outputs, section, *, preprocessing, dtype, ops, rngs); see `layers.Layered`.
MODELS: dict[str, Callable[..., Layered]] = {
    "convnet": ConvNet,
    "resnet18": functools.partial(ResNet, block=basic, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=basic, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=bottleneck, depths=(3, 4, 6, 3)),
    "vit_tiny": functools.partial(ViT, width=192, heads=3),
    "vit_small": functools.partial(ViT, width=384, heads=6),
    "dinov2_small": functools.partial(DINOv2, width=384, heads=6, patch=14, scale=1e-5),
}


def outputs_for(classes: int) -> int:
    """Returns the logits of a task: one for two classes (of the second class, sigmoid), else one per class (softmax)."""
    return 1 if classes == 2 else classes
