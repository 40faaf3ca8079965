"""The registry of networks: `model.name` is one of its keys, or names a network of the user's own."""

import functools
from collections.abc import Callable

from cnnjax.models.convnet import ConvNet
from cnnjax.models.convnext import ConvNeXt
from cnnjax.models.densenet import DenseNet
from cnnjax.models.efficientnet import EfficientNet, EfficientNetLite, EfficientNetV2, EfficientNetV2Same
from cnnjax.models.layers import Layered
from cnnjax.models.mobilenet import MobileNetV3, MobileNetV3Timm
from cnnjax.models.resnet import ResNet, basic, bottleneck
from cnnjax.models.vit import DINOv2, ViT

# Called as (outputs, section, *, preprocessing, dtype, ops, rngs); see `layers.Layered`.
MODELS: dict[str, Callable[..., Layered]] = {
    "convnet": ConvNet,
    "resnet10_half": functools.partial(ResNet, block=basic, depths=(1, 1, 1, 1), widths=(32, 64, 128, 256)),
    "resnet18_half": functools.partial(ResNet, block=basic, depths=(2, 2, 2, 2), widths=(32, 64, 128, 256)),
    "resnet18": functools.partial(ResNet, block=basic, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=basic, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=bottleneck, depths=(3, 4, 6, 3)),
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_b0": EfficientNet,
    "efficientnetv2_s": EfficientNetV2,
    "tf_efficientnetv2_s": EfficientNetV2Same,
    "mobilenetv3_large": MobileNetV3,
    "mobilenetv3_large_100": MobileNetV3Timm,
    "convnext_nano": functools.partial(ConvNeXt, depths=(2, 2, 8, 2), widths=(80, 160, 320, 640)),
    "convnext_tiny": functools.partial(ConvNeXt, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "densenet121": DenseNet,
    "vit_tiny": functools.partial(ViT, width=192, heads=3),
    "vit_small": functools.partial(ViT, width=384, heads=6),
    "dinov2_small": functools.partial(DINOv2, width=384, heads=6, patch=14, scale=1e-5),
}


def outputs_for(classes: int) -> int:
    """Returns the logits of a task: one for two classes (of the second class, sigmoid), else one per class (softmax)."""
    return 1 if classes == 2 else classes
