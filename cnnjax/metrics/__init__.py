"""Numbers that describe predictions, on the host, from the logits of every example once."""

from cnnjax.metrics.comparison import LOWER_IS_BETTER, TITLES, Difference, Pair, Part, Side, compared, holm, parts
from cnnjax.metrics.doubts import doubts
from cnnjax.metrics.folds import nadeau_bengio
from cnnjax.metrics.jackknife import Groups, Score, auc_without, effective, jackknife, proportion, wilson
from cnnjax.metrics.predictions import Predictions
from cnnjax.metrics.scores import auc, by_rows, called, cross_entropy, probabilities, slices
from cnnjax.metrics.seeds import SeedScore, over_seeds
from cnnjax.metrics.table import METRICS, Metric, detailed, headline, present, shown, summarized

__all__ = [
    "LOWER_IS_BETTER", "METRICS", "TITLES", "Difference", "Groups", "Metric", "Pair", "Part", "Predictions", "Score", "SeedScore",
    "Side", "auc", "auc_without", "by_rows", "called", "compared", "cross_entropy", "detailed", "doubts", "effective", "headline",
    "holm", "jackknife", "nadeau_bengio", "over_seeds", "parts", "present", "probabilities", "proportion", "shown", "slices",
    "summarized", "wilson",
]  # fmt: skip
