"""ROC and precision-recall curves of one or several runs."""

from collections.abc import Mapping

import numpy as np

from cnnjax.pages import plots
from cnnjax.pages.figures import short, svg
from cnnjax.runs import Evaluation


def rate_curves(runs: Mapping[str, tuple[np.ndarray, np.ndarray, Evaluation]], *, mark: float = 0.0) -> list[str]:
    """Returns ROC and precision-recall curves as SVG.

    Args:
        runs: name -> (bool [n], whether positive; float [n], scores; the evaluation).
        mark: the threshold to mark, of one run; 0: none.
    """
    from sklearn import metrics

    roc, pr = {}, {}
    for name, (labels, scores, result) in runs.items():
        fall_out, sensitivity, _ = metrics.roc_curve(labels, scores)
        precision, recall, _ = metrics.precision_recall_curve(labels, scores)
        label = "" if mark else f"{short(name, 20)}, "
        roc[name] = fall_out, sensitivity, f"{label}AUC {result.numbers['auc']:.4f}"
        pr[name] = recall, precision, f"{label}average precision {metrics.average_precision_score(labels, scores):.4f}"
    labels, _, result = next(iter(runs.values()))
    point = called = None
    if mark:
        point = 1 - result.numbers["specificity"], result.numbers["sensitivity"]
        called = result.per_class[result.positive]
        called = (called["recall"], called["precision"]) if called["precision"] is not None else None
    base = float(labels.mean())
    return [svg(plots.rates("roc", roc, base, point, mark)), svg(plots.rates("pr", pr, base, called, mark))]
