"""Networks: the registry of families, their layers, and a network as structure and state."""

from cnnjax.models.layers import Dropout, Fitted, Layer, Layered, Norm, Whiten
from cnnjax.models.network import Network, find_network, network, precision, shardings, with_shardings
from cnnjax.models.registry import MODELS, outputs_for
from cnnjax.models.table import Row, oversized, table

__all__ = [
    "MODELS", "Dropout", "Fitted", "Layer", "Layered", "Network", "Norm", "Row", "Whiten", "find_network", "network",
    "outputs_for", "oversized", "precision", "shardings", "table", "with_shardings",
]  # fmt: skip
