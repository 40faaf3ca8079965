"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.bootstrap import resampled
from cnnjax.metrics.calibration import Calibration, fit_calibration
from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.intervals import interval_text, is_few, score, score_text, scored, scored_classes, title_of, without
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.patients import GroupRow, group_auc, group_rows, group_scores, rogan_gladen, spread
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.rates import change, rate, rated
from cnnjax.metrics.readout import EVEN, Readout
from cnnjax.metrics.reliability import calibration_numbers, readout_of, reliability
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.subgroups import subgroups
from cnnjax.metrics.table import METRICS, Metric, detailed, headline, present, shown, summarized
from cnnjax.metrics.thresholds import RULES, Decision, asked_text, decide, threshold_numbers, threshold_rule

__all__ = [
    "EVEN", "METRICS", "RULES", "Calibration", "Decision", "GroupRow", "Groups", "Metric", "Predictions", "Readout", "Score", "asked_text",
    "auc", "auc_without", "by_rows", "calibration_numbers", "called", "change", "cross_entropy", "decide", "detailed", "doubts",
    "effective", "fit_calibration", "group_auc", "group_rows", "group_scores", "headline", "interval_text", "is_few", "jackknife",
    "present", "probabilities", "proportion", "rate", "rated", "readout_of", "reliability", "resampled", "rogan_gladen", "score",
    "score_text", "scored", "scored_classes", "shown", "slices", "spread", "subgroups", "summarized", "threshold_numbers",
    "threshold_rule", "title_of", "wilson", "without",
]  # fmt: skip
