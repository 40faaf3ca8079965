"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.table import METRICS, Metric, Predictions, detailed, headline, present, shown, summarized

__all__ = [
    "METRICS", "Metric", "Predictions", "auc", "by_rows", "called", "cross_entropy", "detailed", "doubts", "headline", "present",
    "probabilities", "shown", "slices", "summarized",
]  # fmt: skip
