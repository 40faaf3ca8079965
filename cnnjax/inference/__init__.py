"""A trained network at work: restored, run on arrays and files, evaluated on a split."""

from cnnjax.inference.batches import EvalBatches, iterate, own_part, put
from cnnjax.inference.classifier import Classifier, Prediction, load
from cnnjax.inference.engine import Engine, compile_logits, evaluated, logits_step
from cnnjax.inference.evaluation import evaluate_split, split_logits
from cnnjax.inference.reading import (
    Reading,
    check_classes,
    fit_reading,
    lines,
    read_reading,
    refit,
    unapplied,
    write_reading,
)
from cnnjax.inference.restoring import RestoredNetwork, restore
from cnnjax.inference.run import Run

__all__ = [
    "Classifier", "Engine", "EvalBatches", "Prediction", "Reading", "RestoredNetwork", "Run", "check_classes",
    "compile_logits", "evaluate_split", "evaluated", "fit_reading", "iterate", "lines", "load", "logits_step", "own_part",
    "put", "read_reading", "refit", "restore", "split_logits", "unapplied", "write_reading",
]  # fmt: skip
