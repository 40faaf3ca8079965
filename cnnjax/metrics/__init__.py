"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.bootstrap import resampled
from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.intervals import interval_text, is_few, score, score_text, scored, scored_classes, title_of, without
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.patients import GroupRow, group_auc, group_rows, group_scores, rogan_gladen, spread
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.table import METRICS, Metric, detailed, headline, present, shown, summarized

__all__ = [
    "METRICS", "GroupRow", "Groups", "Metric", "Predictions", "Score", "auc", "auc_without", "by_rows", "called", "cross_entropy",
    "detailed", "doubts", "effective", "group_auc", "group_rows", "group_scores", "headline", "interval_text", "is_few", "jackknife",
    "present", "probabilities", "proportion", "resampled", "rogan_gladen", "score", "score_text", "scored", "scored_classes", "shown",
    "slices", "spread", "summarized", "title_of", "wilson", "without",
]  # fmt: skip
