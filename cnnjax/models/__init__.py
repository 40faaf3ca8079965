"""Networks: the registry of families, their layers, and a network as structure and state."""

from cnnjax.models.convnext import Block as ConvNeXtBlock
from cnnjax.models.convnext import Depthwise, Downsample
from cnnjax.models.densenet import Block as DenseNetBlock
from cnnjax.models.densenet import Transition
from cnnjax.models.digests import digest_of
from cnnjax.models.inverted import Block as InvertedBlock
from cnnjax.models.inverted import Conv as InvertedConv
from cnnjax.models.inverted import Squeeze
from cnnjax.models.layers import Dropout, Fitted, Layer, Layered, Norm, Whiten
from cnnjax.models.mobilenet import MobileNetV3
from cnnjax.models.network import Network, averages, find_network, network, precision, shardings, with_shardings
from cnnjax.models.norms import LayerNorm
from cnnjax.models.patches import Patches
from cnnjax.models.references import (
    Expected,
    References,
    Rules,
    from_reference,
    reference_name,
    reference_names,
    to_reference,
)
from cnnjax.models.registry import MODELS, outputs_for
from cnnjax.models.resnet import Block as ResNetBlock
from cnnjax.models.resnet import Conv as ResNetConv
from cnnjax.models.table import Row, oversized, table
from cnnjax.models.views import VIEWS, averaged, view
from cnnjax.models.vit import Block as ViTBlock
from cnnjax.models.vit import Embed, ViT

__all__ = [
    "MODELS", "VIEWS", "ConvNeXtBlock", "DenseNetBlock", "Depthwise", "Downsample", "Dropout", "Embed", "Expected", "Fitted",
    "InvertedBlock", "InvertedConv", "Layer", "LayerNorm", "Layered", "MobileNetV3", "Network", "Norm", "Patches", "References",
    "ResNetBlock", "ResNetConv", "Row", "Rules", "Squeeze", "Transition", "ViT", "ViTBlock", "Whiten", "averaged", "averages", "digest_of", "find_network",
    "from_reference", "network", "outputs_for", "oversized", "precision", "reference_name", "reference_names", "shardings",
    "table", "to_reference", "view", "with_shardings",
]  # fmt: skip
