"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.bootstrap import resampled
from cnnjax.metrics.calibration import Calibration, fit_calibration
from cnnjax.metrics.comparison import COMPARED, Difference, Pair, Part, Side, compared, holm, parts
from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.folds import nadeau_bengio
from cnnjax.metrics.intervals import interval_text, is_few, score, score_text, scored, scored_classes, title_of, without
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.patients import GroupRow, group_auc, group_rows, group_scores, rogan_gladen, spread
from cnnjax.metrics.pooling import ORDERS, numbers, pooled
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.rates import change, rate, rated
from cnnjax.metrics.readout import EVEN, Readout
from cnnjax.metrics.reliability import calibration_numbers, readout_of, reliability
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.seeds import SeedScore, over_seeds
from cnnjax.metrics.subgroups import subgroups
from cnnjax.metrics.table import METRICS, Metric, detailed, headline, present, shown, summarized
from cnnjax.metrics.thresholds import RULES, Decision, asked_text, decide, threshold_numbers, threshold_rule

__all__ = [
    "COMPARED", "EVEN", "METRICS", "ORDERS", "RULES", "Calibration", "Decision", "Difference", "GroupRow", "Groups",
    "Metric", "Pair", "Part", "Predictions", "Readout", "Score", "SeedScore", "Side", "asked_text", "auc", "auc_without",
    "by_rows", "calibration_numbers", "called", "change", "compared", "cross_entropy", "decide", "detailed", "doubts",
    "effective", "fit_calibration", "group_auc", "group_rows", "group_scores", "headline", "holm", "interval_text", "is_few",
    "jackknife", "nadeau_bengio", "numbers", "over_seeds", "parts", "pooled", "present", "probabilities", "proportion",
    "rate", "rated", "readout_of", "reliability", "resampled", "rogan_gladen", "score", "score_text", "scored",
    "scored_classes", "shown", "slices", "spread", "subgroups", "summarized", "threshold_numbers", "threshold_rule",
    "title_of", "wilson", "without",
]  # fmt: skip
