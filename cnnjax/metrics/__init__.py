"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.calibration import Calibration, fit_calibration
from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.readout import Readout
from cnnjax.metrics.reliability import calibration_numbers, readout_of, reliability
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.table import METRICS, Metric, Predictions, detailed, headline, present, shown, summarized
from cnnjax.metrics.thresholds import RULES, Decision, asked_text, decide, threshold_numbers, threshold_rule

__all__ = [
    "METRICS", "RULES", "Calibration", "Decision", "Groups", "Metric", "Predictions", "Readout", "Score", "asked_text", "auc",
    "auc_without", "by_rows", "calibration_numbers", "called", "cross_entropy", "decide", "detailed", "doubts", "effective",
    "fit_calibration", "headline", "jackknife", "present", "probabilities", "proportion", "readout_of", "reliability", "shown",
    "slices", "summarized", "threshold_numbers", "threshold_rule", "wilson",
]  # fmt: skip
