"""Calibration and threshold in the evidence: how good probabilities are before and after, and what the threshold does."""

from typing import Any

from cnnjax import config as config_lib
from cnnjax import metrics
from cnnjax.evidence.table import Table
from cnnjax.metrics import Calibration, Decision
from cnnjax.runs import RunDirectory


def read_decided(run: RunDirectory) -> tuple[Calibration | None, Decision | None]:
    """Reads `calibration.json` and `decision.json`; None for a file that is not there. The run may be a stranger's.

    Raises:
        CheckpointError: a file that is damaged, was changed, or holds what no fit gives.
    """
    return run.read_record(Calibration, run.calibration), run.read_record(Decision, run.decision)


def decided_numbers(run: RunDirectory, name: str, table: Table, settings: config_lib.Evidence) -> dict[str, dict[str, Any]]:
    """Returns {"calibration", "reliability", "threshold"} of an evaluation; the threshold is {} for more than two classes.

    What is stored for another checkpoint than that of the evaluation has no part in it.
    """
    step, level = run.read_evaluation(name).step, settings.level
    calibration, decision = (made if made and made.step == step else None for made in read_decided(run))
    told = {"positive": table.positive, "calibration": calibration, "level": level}
    found = {"calibration": metrics.calibration_numbers(table.logits, table.labels, table.groups, **told),
             "reliability": metrics.reliability(table.logits, table.labels, table.groups, **told), "threshold": {}}  # fmt: skip
    if table.positive >= 0:
        readout = metrics.readout_of(calibration, decision.threshold if decision else metrics.EVEN, table.positive)
        prevalence = settings.prevalence or (decision.prevalence if decision else 0.0)
        found["threshold"] = metrics.threshold_numbers(table.logits, table.labels, table.groups, readout=readout, decision=decision,
                                                       prevalence=prevalence, level=level)  # fmt: skip
    return found
