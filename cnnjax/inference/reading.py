"""Calibration and decision of a run: fitted on its validation, stored beside its summary, read back by whoever predicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax import config as config_lib
from cnnjax import metrics, runtime
from cnnjax.config import Config
from cnnjax.data import Dataset
from cnnjax.errors import ConfigError
from cnnjax.evidence import read_decided
from cnnjax.metrics import Calibration, Decision, Readout
from cnnjax.runs import RunDirectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Calibration and decision of one checkpoint: from logits to probabilities and classes.

    Attributes:
        calibration: None where none was stored for the checkpoint: probabilities are as the network gives them.
        decision: None where none was stored, and for more than two classes: the most probable class is called.
        positive: index of the positive class of two; -1 for more classes.
        unit: what a group is in words, for `lines`.
        ignored: a line for each file that is of another checkpoint.
    """

    calibration: Calibration | None = None
    decision: Decision | None = None
    positive: int = -1
    unit: str = "group"
    ignored: tuple[str, ...] = ()

    @property
    def readout(self) -> Readout:
        """The numbers of both."""
        return metrics.readout_of(self.calibration, self.decision.threshold if self.decision else 0.5, self.positive)

    def lines(self, classes: Sequence[str]) -> list[str]:
        """Returns what was fitted and decided, a line each; nothing for what is as by default."""
        found = [self.calibration.text(self.unit) if self.calibration else ""]
        if self.decision:
            found.append(self.decision.text(self.unit, classes[self.positive]))
        return [line for line in found if line]

    def at_prevalence(self, prevalence: float, run: RunDirectory) -> Readout:
        """Returns the readout for another share of the positive class.

        Raises:
            ConfigError: not a share, more than two classes, or a run that does not say which share it was trained with.
        """
        if not 0 < prevalence < 1:
            raise ConfigError(
                f"--prevalence={prevalence:g}: write the share of the positive class, between 0 and 1, such as 0.035"
            )
        if self.positive < 0:
            raise ConfigError(f"--prevalence={prevalence:g} is for two classes, and {run} has more; leave it out")
        if self.calibration is None or self.calibration.share is None:
            raise ConfigError(f"--prevalence={prevalence:g} needs {run.calibration.name} for this checkpoint, which {run} does not have; "
                              f"--mode=eval --workdir={run} --config.evidence.calibration=temperature writes it for the best one")  # fmt: skip
        follows = self.decision is not None and self.decision.follows
        return self.readout.at_prevalence(prevalence, self.calibration.share, follows=follows)


def check_classes(evidence: Mapping[str, Any], classes: int) -> None:
    """Raises ConfigError where the evidence section asks of more than two classes what exists for two."""
    if classes == 2:
        return
    standard = Config().evidence
    for key in ("threshold", "prevalence"):
        if evidence[key] != standard[key]:
            raise ConfigError(f"evidence.{key}={evidence[key]} is for two classes, and there are {classes}; leave it out")
    if evidence["calibration"] == "platt":
        raise ConfigError(f"evidence.calibration=platt is for two classes, and there are {classes}; use temperature")


def fit_reading(logits: np.ndarray, data: Dataset, *, evidence: Mapping[str, Any], positive: int, share: float | None, step: int,
                digest: str, unit: str) -> Reading:  # fmt: skip
    """Fits calibration and decision on validation.

    Args:
        logits: of the validation images, float32 [n, outputs], in the order of the split.
        data: images, labels, groups and splits.
        evidence: the section of the config.
        positive: index of the positive class of two; -1 for more classes.
        share: share of the positive class that the network was trained with; None for more classes.
        step: the checkpoint.
        digest: of the split.
        unit: what a group is in words.
    """
    rows = data.splits["val"]
    labels, groups = data.labels[rows], metrics.Groups.of(data.groups.take(rows), unit)
    calibration = metrics.fit_calibration(logits, labels, groups, evidence["calibration"], share)
    if calibration.method == "platt":  # its intercept is that of validation
        calibration = dataclasses.replace(calibration, share=float((labels == positive).mean()))
    calibration = dataclasses.replace(calibration, step=step, split_digest=digest)
    decision = None
    if positive >= 0:
        readout = metrics.readout_of(calibration, positive=positive)
        decision = metrics.decide(
            logits, labels, groups, readout=readout, rule=evidence["threshold"], prevalence=evidence["prevalence"]
        )
        decision = dataclasses.replace(decision, step=step, split_digest=digest)
    return Reading(calibration=calibration, decision=decision, positive=positive, unit=groups.unit)


def write_reading(run: RunDirectory, reading: Reading) -> None:
    """Writes `calibration.json`, and `decision.json` of two classes."""
    if runtime.is_main():
        run.write_json(run.calibration, reading.calibration.to_dict())
        if reading.decision:
            run.write_json(run.decision, reading.decision.to_dict())


def refit(config: Config, stored: Reading, overrides: Mapping[str, Any]) -> config_lib.Evidence | None:
    """Returns the section to fit a run anew with; None where the overrides change neither calibration nor threshold.

    Args:
        config: of the run, with the overrides.
        stored: what the run has; it stays for keys that are not among the overrides.
        overrides: as they were given.
    """
    was = {}
    if stored.calibration:
        was["calibration"] = stored.calibration.asked
    if stored.decision:
        was |= {"threshold": stored.decision.rule, "prevalence": stored.decision.prevalence}
    kept = {key: value for key, value in was.items() if f"evidence.{key}" not in overrides}
    evidence = dataclasses.replace(config.evidence, **kept)
    config_lib.validate(dataclasses.replace(config, evidence=evidence))
    costs = evidence.threshold.startswith("cost")
    keys = ("evidence.calibration", "evidence.threshold", *(("evidence.prevalence",) if costs else ()))
    return evidence if any(key in overrides for key in keys) else None


def unapplied(run: RunDirectory, evidence: Mapping[str, Any]) -> str:
    """Returns a line where a finished run has another calibration, threshold or level than a config asks for; "" where not."""
    calibration, decision = read_decided(run)
    has = {
        **({"calibration": calibration.asked} if calibration else {}),
        **({"threshold": decision.rule} if decision else {}),
    }
    other = [key for key, value in has.items() if value != evidence[key]]
    held = run.read_config()["evidence"]
    later = [key for key in ("level", "prevalence", "bootstrap") if held[key] != evidence[key]]
    if later and not other:
        asked = " ".join(f"--config.evidence.{key}={evidence[key]}" for key in later)
        return f"its numbers stay at evidence.{later[0]}={held[later[0]]}; to compute them anew: --mode=evidence --workdir={run} {asked}"
    if not other:
        return ""
    asked = " ".join(f"--config.evidence.{key}={evidence[key]}" for key in other)
    return (f"it keeps {' and '.join(f'evidence.{key}={has[key]}' for key in other)}; to choose anew on its validation: "
            f"--mode=eval --workdir={run} {asked}")  # fmt: skip


def read_reading(run: RunDirectory, positive: int, step: int, digest: str) -> Reading:
    """Reads what is stored for a checkpoint; files of another step or split are ignored, with a line each.

    The run may be a stranger's.

    Raises:
        CheckpointError: a file that is damaged, was changed, or holds what no fit gives.
    """
    calibration, decision = read_decided(run)
    ignored = []

    def own(made, path):
        if made is None or (made.step == step and made.split_digest == digest):
            return made
        of = f"step {made.step}, and this is step {step}" if made.step != step else "another split"
        ignored.append(f"{path} is of {of}: it is not used")
        return None

    return Reading(calibration=own(calibration, run.calibration), decision=own(decision, run.decision) if positive >= 0 else None, positive=positive,
                   ignored=tuple(ignored))  # fmt: skip
