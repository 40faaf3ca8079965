"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.rates import change, rate, rated
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.subgroups import subgroups
from cnnjax.metrics.table import METRICS, Metric, Predictions, detailed, headline, present, shown, summarized

__all__ = [
    "METRICS", "Groups", "Metric", "Predictions", "Score", "auc", "auc_without", "by_rows", "called", "change", "cross_entropy", "detailed", "doubts",
    "effective", "headline", "jackknife", "present", "probabilities", "proportion", "rate", "rated", "shown", "slices", "subgroups", "summarized", "wilson",
]  # fmt: skip
