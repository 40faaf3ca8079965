"""Orbax's checkpointer as a run uses it, and a look at the small files of a checkpoint before Orbax reads them."""

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from orbax.checkpoint import v1 as ocp

from cnnjax import runtime
from cnnjax.inside import read_small

DIGITS = 15  # of a step


def open_checkpointer(directory: Path, *, writable: bool) -> ocp.training.Checkpointer:
    """Returns the checkpointer of a directory that keeps the latest two checkpoints and the best one."""
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
        directory,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy([
            policies.LatestN(2),
            policies.BestN(get_metric_fn=lambda m: (-score(m), -m["step"]), n=1, keep_checkpoints_without_metrics=False),
        ]),
        cleanup_tmp_directories=writable,
        context=_context(),
    )  # fmt: skip


def score(scores: Mapping[str, float]) -> float:
    """Returns the number of which the lowest is the best, as it was saved with a checkpoint."""
    return scores["score"] if "score" in scores else scores["val_loss"]  # older checkpoints have no other


def is_step(name: str) -> bool:
    """Returns whether a name is that of a checkpoint: its step in digits."""
    return name.isascii() and name.isdecimal()


SCORES = "metrics/metrics"  # of a checkpoint, where it was evaluated
METADATA = "_CHECKPOINT_METADATA"


def misfit(directory: Path) -> str:
    """Tells how the small files of a checkpoint cannot be what was saved; "" where they can. Orbax reads them at once, of every step."""
    name = METADATA
    try:
        if len(directory.name) > DIGITS:
            return "its step is not a number of updates"
        tree = json.loads(read_small(directory / name))
        if not isinstance(tree, dict) or not isinstance(tree.get("item_handlers", {}), dict):
            return f"{METADATA} is damaged"
        if (directory / SCORES).exists():
            name, scores = SCORES, json.loads(read_small(directory / SCORES))
            if scores["step"] != int(directory.name) or not float("-inf") < score(scores) < float("inf"):
                return f"{SCORES} is of another step, or has no score"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{name} is damaged or gone"
    return ""


def _context() -> ocp.Context:
    context = ocp.Context()
    # By the system's clock, which a computer that has slept sets forward: after the usual 20 minutes a save is given up.
    context.asynchronous.timeout_secs = 7 * 86400
    # Where they cannot be made, the rest of the save would wait for them until that time is over.
    context.asynchronous.create_directories_asynchronously = False
    # Else each device of a process would slice the arrays that all of them hold, and the host would fetch each slice.
    context.array.saving.use_replica_parallel = runtime.is_distributed()
    return context


@functools.cache
def hush_late_answers() -> None:
    """Silences TensorStore's threads, which print a traceback for each array that fails after Orbax has given up."""
    otherwise = sys.unraisablehook

    def hook(unraisable):
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            otherwise(unraisable)

    sys.unraisablehook = hook
