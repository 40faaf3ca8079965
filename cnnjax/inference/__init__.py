"""A trained network at work: restored, run on arrays and files, evaluated on a split."""

from cnnjax.inference.batches import EvalBatches, iterate, own_part, put
from cnnjax.inference.classifier import Classifier, Prediction
from cnnjax.inference.engine import Engine, compile_logits, evaluated, logits_step
from cnnjax.inference.ensemble import Ensemble, load
from cnnjax.inference.evaluation import evaluate_split
from cnnjax.inference.restoring import RestoredNetwork, restore
from cnnjax.inference.run import Run

__all__ = [
    "Classifier",
    "Engine",
    "Ensemble",
    "EvalBatches",
    "Prediction",
    "RestoredNetwork",
    "Run",
    "compile_logits",
    "evaluate_split",
    "evaluated",
    "iterate",
    "load",
    "logits_step",
    "own_part",
    "put",
    "restore",
]
