"""Networks: the registry of families, their layers, and a network as structure and state."""

from cnnjax.models.layers import Dropout, Fitted, Layer, Layered, Norm, Whiten
from cnnjax.models.network import Network, find_network, network, precision, shardings, with_shardings
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
from cnnjax.models.table import Row, oversized, table
from cnnjax.models.views import VIEWS, averaged

__all__ = [
    "MODELS", "VIEWS", "Dropout", "Expected", "Fitted", "Layer", "Layered", "Network", "Norm", "References", "Row", "Rules", "Whiten",
    "averaged", "find_network", "from_reference", "network", "outputs_for", "oversized", "precision", "reference_name",
    "reference_names", "shardings", "table", "to_reference", "with_shardings",
]  # fmt: skip
