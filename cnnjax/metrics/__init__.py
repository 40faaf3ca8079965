"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.folds import nadeau_bengio
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.pooling import Pooled
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.table import METRICS, Metric, Predictions, detailed, headline, present, shown, summarized

__all__ = [
    "METRICS", "Groups", "Metric", "Pooled", "Predictions", "Score", "auc", "auc_without", "by_rows", "called", "cross_entropy", "detailed", "doubts",
    "effective", "headline", "jackknife", "nadeau_bengio", "present", "probabilities", "proportion", "shown", "slices", "summarized", "wilson",
]  # fmt: skip
