"""A trained network at work: restored, run on arrays and files, evaluated on a split."""

from cnnjax.inference.batches import EvalBatches, iterate, own_part, put, store
from cnnjax.inference.classifier import Classifier, Prediction
from cnnjax.inference.corruptions import CHANGES, corrupted
from cnnjax.inference.engine import (
    Engine,
    batch_of_rows,
    compile_features,
    compile_last,
    compile_logits,
    compile_plain,
    evaluated,
    logits_step,
)
from cnnjax.inference.ensemble import Ensemble, answers, load, ways
from cnnjax.inference.evaluation import evaluate_split, split_logits
from cnnjax.inference.explanation import Explainer
from cnnjax.inference.exported import Exported, open_exported
from cnnjax.inference.exporting import computes_float32, exact_products, in_float32, to_portable
from cnnjax.inference.opened import open_split, own_data, say_maker
from cnnjax.inference.overlays import OverlayFiles, seen_places
from cnnjax.inference.reading import Reading, check_classes, fit_reading, read_reading, refit, unapplied, write_reading
from cnnjax.inference.restoring import RestoredNetwork, read_preprocessing, restore
from cnnjax.inference.run import Run
from cnnjax.inference.stored import Stored, compile_stored, stored_bytes
from cnnjax.inference.unlike import write_typical

__all__ = [
    "CHANGES", "Classifier", "Engine", "Ensemble", "EvalBatches", "Explainer", "Exported", "OverlayFiles", "Prediction", "Reading", "RestoredNetwork", "Run", "Stored", "answers", "batch_of_rows", "check_classes", "compile_features", "compile_last", "compile_logits", "compile_plain", "compile_stored", "computes_float32", "corrupted", "evaluate_split", "evaluated", "exact_products", "fit_reading", "in_float32", "iterate", "load", "logits_step", "open_exported", "open_split", "own_data", "own_part", "put", "read_preprocessing", "read_reading", "refit", "restore", "say_maker", "seen_places", "split_logits", "store", "stored_bytes", "to_portable", "unapplied", "ways", "write_reading", "write_typical",
]  # fmt: skip
