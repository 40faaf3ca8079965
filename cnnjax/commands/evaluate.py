"""Evaluates a checkpoint of a run on one of its splits, or on another labelled set."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import inference, metrics, pages, runtime
from cnnjax.config import Evidence
from cnnjax.errors import ConfigError, DataError
from cnnjax.evidence import read_evidence, unit_of
from cnnjax.progress import Progress, counted
from cnnjax.runs import Evaluation, RunDirectory, is_remote, short_name


def evaluate(workdir: str | Path, split: str = "test", step: str | int = "best", *, data: str | Path = "",
             overrides: Mapping[str, Any] | None = None, trust_code: bool = False, progress: Progress | None = None) -> Evaluation:  # fmt: skip
    """Evaluates a checkpoint on a split of its run, or on another labelled set; every image counts once.

    With evidence.calibration or evidence.threshold among the overrides, these are chosen anew on validation and stored, and every
    split is evaluated with them. Writes `eval/<split>.json` and `eval/<split>.csv`, of another set `eval/data-<name>.*`; for a step other than the best
    `eval/<split>-<step>.*`.

    Args:
        workdir: the run directory; its config comes from the checkpoint.
        split: train, val or test; without a meaning for another set.
        step: "best", "latest" or the number of a checkpoint that was kept.
        data: another labelled set: a folder, an archive or a table with the classes of the run by name, or tfds:NAME.
        overrides: config values, such as {"data.path": ...} where the data has moved.
        trust_code: import the Python files of its own that the run names, which no run of this user has used.
        progress: hears how far it is.

    Returns:
        The numbers of the split, the confusion matrix, numbers per class, and images that are worth a look.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        DataError: nothing to evaluate, or other images than those of the run.
    """
    progress, run = progress or Progress(), RunDirectory(workdir)
    if data:
        return _evaluate_other(run, str(data), step, overrides or {}, trust_code, progress)
    restored, own = inference.open_split(run, split, step, overrides or {}, trust_code=trust_code, progress=progress)
    restored = _with_settings(run, restored, overrides or {})
    if evidence := inference.refit(restored.config, restored.reading, overrides or {}):
        if step != "best":
            raise ConfigError(
                "calibration and threshold are chosen at the best step; leave out --step, or --config.evidence.*"
            )
        return _evaluate_anew(run, restored, own, evidence, progress)[split]
    name = split if step == "best" else f"{split}-{restored.step}"
    evaluation = _evaluate(run, restored, own, split, name, progress)
    runtime.wait_for_all("evaluated")  # pictures of mistakes can take process 0 longer than the others would wait
    return evaluation


def _with_settings(
    run: RunDirectory, restored: inference.RestoredNetwork, overrides: Mapping[str, Any]
) -> inference.RestoredNetwork:
    """Returns a network with the run's own settings of intervals, which may be younger than its checkpoint; overrides are kept for later."""
    keys = ("level", "prevalence", "bootstrap")
    if runtime.is_main():
        run.keep_settings(
            {f"evidence.{key}": restored.config.evidence[key] for key in keys if f"evidence.{key}" in overrides}
        )
    runtime.wait_for_all("settings")
    kept = {f"evidence.{key}": value for key, value in run.read_config()["evidence"].items() if key in keys}
    changed = config_lib.from_dict(restored.config.to_dict(), kept)
    return dataclasses.replace(restored, config=dataclasses.replace(restored.config, evidence=changed.evidence))


def _evaluate(run: RunDirectory, restored: inference.RestoredNetwork, data: data_lib.Dataset, split: str, name: str, progress: Progress,
              **known) -> Evaluation:  # fmt: skip
    config = restored.config
    return inference.evaluate_split(restored.engine, data, split, batch_size=config.data.batch_size, reading=restored.reading, run=run,
                                    name=name, step=restored.step, settings=config.evidence, progress=progress, **known)  # fmt: skip


def _evaluate_anew(run: RunDirectory, restored: inference.RestoredNetwork, own: data_lib.Dataset, evidence: Evidence,
                   progress: Progress) -> dict[str, Evaluation]:  # fmt: skip
    """Chooses calibration and threshold on validation, stores them, and evaluates every split; the summary and the page follow."""
    inference.check_classes(evidence, len(restored.classes))
    if not len(own.splits["val"]):
        raise DataError(f"{run} has no validation images, on which alone calibration and threshold are chosen")
    from cnnjax import training  # Optax, which an evaluation has no other use for

    logits = inference.split_logits(restored.engine, own, "val", restored.config.data.batch_size, progress)
    share = training.supposed_share(restored.config, own, restored.positive)
    reading = inference.fit_reading(logits, own, evidence=evidence, positive=restored.positive, share=share, step=restored.step,
                                    digest=restored.splits_sha256, unit=unit_of(restored.config.data))  # fmt: skip
    inference.write_reading(run, reading)
    if runtime.is_main():
        run.keep_settings({f"evidence.{key}": evidence[key] for key in ("calibration", "threshold")})
    config = dataclasses.replace(restored.config, evidence=evidence)
    restored = dataclasses.replace(restored, reading=reading, config=config)
    for line in reading.lines(restored.classes) or [
        "probabilities are as the network gives them, and the most probable class is called"
    ]:
        progress.message(line)
    found, judged = {}, "test" if len(own.splits["test"]) else "val"
    for name in (name for name in data_lib.SPLITS if len(own.splits[name])):
        known = {"logits": logits} if name == "val" else {}
        found[name] = _evaluate(run, restored, own, name, name, progress, explain=name == judged, **known)
    if runtime.is_main() and run.has_ended():
        numbers = {name: metrics.summarized(result) for name, result in found.items()}
        intervals = {name: made.intervals for name in found if name != "train" and (made := read_evidence(run, name))}
        run.write_summary(dataclasses.replace(run.expect_summary(), **numbers, intervals=intervals))
        pages.write_report(run.path)
    runtime.wait_for_all("evaluated")
    progress.message(f"all numbers in {run.evaluations.name}/, {run.summary.name} and {run.report.name} are with these now")
    return found


def _evaluate_other(
    run: RunDirectory, data: str, step: str | int, overrides: Mapping[str, Any], trust_code: bool, progress: Progress
) -> Evaluation:
    restored = inference.restore(run.path, step, overrides, trust_code=trust_code)
    inference.say_maker(restored, progress)
    restored = _with_settings(run, restored, overrides)
    config = restored.config
    if inference.refit(config, restored.reading, overrides):
        raise ConfigError(f"calibration and threshold are chosen on the run's own validation, not on {data}; first --mode=eval --workdir={run} with "
                          "--config.evidence.*, then --data without")  # fmt: skip
    kind, _, name = data.partition(":")
    path = data if is_remote(data) else os.path.abspath(os.path.expanduser(data))
    new = {"source": "tfds", "tfds": name} if kind == "tfds" else {"source": "files", "path": path}
    fresh = {
        "path": "",
        "url": "",
        "root": "",
        "columns": (),
        "label": "",
        "names": "",
        "metadata": "",
    }  # not those of the run's own set
    kept = {key: value for key, value in fresh.items() if f"data.{key}" not in overrides}
    section = dataclasses.replace(config.data, **{**kept, **new})
    data_lib.check_path(section)
    with runtime.all_or_none():
        other = data_lib.open_other_set(
            section, data_lib.preprocessing(config.image), restored.classes, progress, workers=config.runtime.workers
        )
        _warn_of_shared_images(run, restored, other, progress)
    name = f"data-{short_name(data)}" + ("" if step == "best" else f"-{restored.step}")
    evaluation = _evaluate(run, restored, other, data_lib.OTHER_SET, name, progress)
    runtime.wait_for_all("evaluated")
    return evaluation


def _warn_of_shared_images(
    run: RunDirectory, restored: inference.RestoredNetwork, other: data_lib.Dataset, progress: Progress
) -> None:
    """Warns of images that the network was trained on, where the run's own set is still there."""
    try:
        own = inference.own_data(run, restored, {}, Progress())
    except DataError as error:
        progress.warn(f"not compared with the training images, which cannot be read ({error})")
        return
    rows = other.splits[data_lib.OTHER_SET]
    count = data_lib.shared_images(other, rows, own, own.splits["train"])
    if count:
        progress.warn(f"{counted(count, 'image')} of {len(rows):,} {'is' if count == 1 else 'are'} among the training images, pixel for pixel: "
                      "the numbers are better than on new images")  # fmt: skip
