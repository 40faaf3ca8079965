"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.folds import nadeau_bengio
from cnnjax.metrics.intervals import interval_text, score, score_text, scored, scored_classes, without
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.pooling import ORDERS, numbers, pooled
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.table import METRICS, Metric, detailed, headline, present, shown, summarized

__all__ = [
    "METRICS", "ORDERS", "Groups", "Metric", "Predictions", "Score", "auc", "auc_without", "by_rows", "called", "cross_entropy", "detailed", "doubts", "effective", "headline", "interval_text", "jackknife", "nadeau_bengio", "numbers", "pooled", "present", "probabilities", "proportion", "score", "score_text", "scored", "scored_classes", "shown", "slices", "summarized", "wilson", "without",
]  # fmt: skip
