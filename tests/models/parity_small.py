"""Networks of torchvision and timm with fewer blocks than those that they have names for; arguments are called as here."""

from collections import OrderedDict

import timm
import torch
from torchvision.models import densenet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.mobilenetv3 import MobileNetV3


def convnext_timm(depths, widths, num_classes) -> torch.nn.Module:
    return timm.create_model("convnext_tiny", depths=depths, dims=widths, num_classes=num_classes)


def convnext_timm_convolved(depths, widths, num_classes) -> torch.nn.Module:
    return timm.create_model("convnext_nano", depths=depths, dims=widths, num_classes=num_classes)


def convnext_torchvision(depths, widths, num_classes) -> torch.nn.Module:
    rows = zip(widths, (*widths[1:], None), depths, strict=True)
    return ConvNeXt([CNBlockConfig(*row) for row in rows], num_classes=num_classes)


def densenet_timm(depths, growth, num_classes) -> torch.nn.Module:
    return timm.create_model("densenet121", block_config=depths, growth_rate=growth, num_classes=num_classes)


def densenet_torchvision(depths, growth, num_classes) -> torch.nn.Module:
    return densenet.DenseNet(growth, depths, 2 * growth, num_classes=num_classes)


def shortened(network: torch.nn.Module, depths) -> torch.nn.Module:
    """An EfficientNet or a MobileNetV3 with the first blocks of each stage, as many as `depths` says, under the names they had."""
    if isinstance(network, MobileNetV3):
        starts = [1, 2, 4, 7, 11, 13]  # of the stages, which follow each other without a container
        left = {0, 16} | {start + i for start, depth in zip(starts, depths, strict=True) for i in range(depth)}
        network.features = torch.nn.Sequential(
            OrderedDict(m for m in network.features.named_children() if int(m[0]) in left)
        )
        return network
    for stage, depth in zip(getattr(network, "blocks", None) or network.features[1:], depths, strict=False):
        del stage[depth:]
    return network
