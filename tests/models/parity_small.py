"""Networks of torchvision and timm with fewer blocks than those that they have names for; arguments are called as here."""

import timm
import torch
from torchvision.models import densenet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt


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
