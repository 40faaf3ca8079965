"""The registry of networks: `model.name` is one of its keys, or names a network of the user's own."""

import functools
from collections.abc import Callable

from cnnjax.models.convnet import ConvNet
from cnnjax.models.layers import Layered
from cnnjax.models.resnet import ResNet, basic, bottleneck

# Called as (outputs, section, *, preprocessing, dtype, ops, rngs); see `layers.Layered`.
MODELS: dict[str, Callable[..., Layered]] = {
    "convnet": ConvNet,
    "resnet18": functools.partial(ResNet, block=basic, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=basic, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=bottleneck, depths=(3, 4, 6, 3)),
}


def outputs_for(classes: int) -> int:
    """Returns the logits of a task: one for two classes (of the second class, sigmoid), else one per class (softmax)."""
    return 1 if classes == 2 else classes
