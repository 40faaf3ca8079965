"""Networks: the registry of families, their layers, and a network as structure and state."""

from cnnjax.models.network import Network, network, precision, shardings, with_shardings
from cnnjax.models.registry import MODELS, outputs_for, table

__all__ = ["MODELS", "Network", "network", "outputs_for", "precision", "shardings", "table", "with_shardings"]
