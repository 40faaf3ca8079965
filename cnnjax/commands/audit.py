"""One verb: audit the data, and the labels where a run has predictions, for what makes numbers too good."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import audit as audit_lib
from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import pages, runs
from cnnjax.audit import Finding
from cnnjax.errors import CheckpointError, DataError, Stopped
from cnnjax.metrics import Groups
from cnnjax.progress import Progress

SHOWN = 12  # pairs of each kind with pictures
SUSPECTS = 24  # suspects with pictures


@dataclasses.dataclass(frozen=True)
class Audited:
    """The outcome of an audit.

    Attributes:
        page: the page, `audit.html`.
        tables: the folder of the tables, `audit/`.
        findings: the serious ones first.
        probes: of shortcuts.
        suspects: number of labels to look at; None where labels were not audited.
    """

    page: Path
    tables: Path
    findings: tuple[Finding, ...]
    probes: tuple[audit_lib.Probe, ...]
    suspects: int | None = None


def audit(config: config_lib.Config | None, workdir: str | Path, *, labels: bool = False, overrides: Mapping[str, Any] | None = None,
          progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> Audited:  # fmt: skip
    """Looks for copies across the split, groups on two sides, shortcuts, and with `labels` for labels that predictions contradict.

    Writes `audit.html` and the tables `audit/pairs.csv`, `audit/shortcuts.csv` and `audit/labels.csv`. Changes nothing else: no label,
    no split.

    Args:
        config: from `load_config`; None: that of the run in `workdir`.
        workdir: where the page goes. The split is that of its `splits.csv`, else the one that training will make. Of a run with
            another config the page goes to `workdir`-audited.
        labels: audit the labels too, which takes a run with predictions.
        overrides: config values, such as {"data.path": ...} where the data of a run has moved; without a config only.
        progress: hears what happens.
        stop: polled while decoding and between the probes.

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true; the tables and the page are not written.
    """
    progress, run = progress or Progress(), runs.RunDirectory(workdir)
    if config is None:
        config = _own_config(run, overrides or {})
    else:
        if config.model.weights:
            from cnnjax import training  # imports JAX, of which an audit has no other use

            config = training.with_weights(config, run, progress, loads=False)
        run = _apart(config, run, progress)
    told = audit_lib.read_predictions(run) if labels else None  # before minutes of work
    run.check_apart(config)
    with runs.begun(run.path):
        runs.check_writable(run.path, "use another --workdir")
        pages.check_replaceable(run.audit)
        data = data_lib.prepare(config, run.path, progress, freeze=False, stop=stop)
    copies = data.copies
    if copies is None or copies.note:  # a split of many images does not wait for near copies
        copies = data_lib.find_copies(data.images, data.used, turns=config.audit.turns)
    if copies.note:
        progress.message(f"  {copies.note}")
    findings = [*audit_lib.pictures(data, copies), *audit_lib.groups(data)]
    probes = _probes(data, config.evidence.level, progress, stop)
    findings += audit_lib.shortcut_findings(probes)
    run.write_rows(run.audit_table("pairs"), audit_lib.PAIRS, audit_lib.pairs_table(data, copies))
    run.write_rows(run.audit_table("shortcuts"), audit_lib.SHORTCUTS, audit_lib.shortcuts_table(probes))
    doubts = None
    if told is not None:
        doubts = audit_lib.confident(told.labels, told.probabilities)
        findings.append(audit_lib.suspects_finding(told, doubts))
        run.write_rows(run.audit_table("labels"), audit_lib.SUSPECTS, audit_lib.suspects_table(told, doubts))
    findings.sort(key=lambda finding: finding.severity != audit_lib.SERIOUS)
    pictures = _pictures(data, copies, told, doubts)
    page = pages.audit_page(
        config.name or run.path.name, data, findings, copies, probes, told, doubts, pictures, _own_auc(run)
    )
    pages.write_page(run.audit, page)
    return Audited(run.audit, run.audits, tuple(findings), tuple(probes), None if doubts is None else len(doubts.suspects))


def _own_config(run: runs.RunDirectory, overrides: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config of a run for this machine. The run may be a stranger's: nothing of it is executed or fetched."""
    standard = config_lib.default()
    here = {"data.cache_dir": standard.data.cache_dir, "runtime.workers": standard.runtime.workers, **overrides}
    config = config_lib.from_dict(run.read_config(), here)
    key, address = data_lib.unfetched(config.data)
    if address and key not in overrides:
        raise DataError(f"{run} names {address} as its data, which is not in this machine's cache, and is not fetched for a run alone; name it "
                        f"with --config.{key}={address}")  # fmt: skip
    return config


def _apart(config: config_lib.Config, run: runs.RunDirectory, progress: Progress) -> runs.RunDirectory:
    """Returns the directory for the page: that of the run, or another one where a run with another config is there."""
    if config.data.auto_batch and run.is_run():  # the run keeps its number, which nothing here depends on
        size = run.read_config()["data"]["batch_size"]
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))
    try:
        run.finished(config)
        return run
    except CheckpointError:
        other = runs.RunDirectory(f"{run}-audited")
        progress.warn(f"{run} holds a run with another config: the page goes to {other}")
        return other


def _probes(data: data_lib.Dataset, level: float, progress: Progress, stop: Callable[[], bool]) -> list[audit_lib.Probe]:
    """Returns what is told by what is not the object."""
    sample = audit_lib.draw(data)
    if sample.note:
        progress.message(f"  shortcuts are looked for in {sample.note}")
    with progress.task("read files", len(sample.rows), "files") as advance:
        files = audit_lib.file_facts(data, sample.rows, advance)
    numbers, probes = audit_lib.numbers(data, sample, files), []
    with progress.task("look for shortcuts", len(numbers), "probes") as advance:
        for name, values in numbers.items():
            if stop():
                raise Stopped("stopped before the page was whole; the same command starts it again")
            probes.append(audit_lib.probe(name, values, sample, level))
            advance(1)
    return probes


def _own_auc(run: runs.RunDirectory) -> tuple[str, float] | None:
    """Returns the split and the area under the ROC curve of the run itself, which probes stand beside; None without predictions."""
    for name in ("test", "val"):
        if run.predictions(name).exists():
            told = audit_lib.read_predictions(run, (name,))
            auc = audit_lib.macro_auc(told.probabilities, told.labels, Groups.of(told.groups))
            return (name, auc.value) if auc.value is not None else None
    return None


def _pictures(data: data_lib.Dataset, copies: data_lib.Copies, told: audit_lib.Predictions | None, doubts: audit_lib.Confidence | None
              ) -> dict[int, np.ndarray]:  # fmt: skip
    """Returns the images that the page shows, as they are in their files: row -> uint8 [h, w, 3]."""
    pairs = [row for place in pages.shown_pairs(data, copies, SHOWN) for row in copies.pairs[place]]
    wanted = {int(row) for row in pairs}
    if told is not None and doubts is not None:
        row_of = {id: row for row, id in enumerate(data.ids)}
        wanted |= {row_of[told.ids[i]] for i in doubts.suspects[:SUSPECTS] if told.ids[i] in row_of}
    originals = data.originals(wanted)
    return {row: originals.get(row, data.images[row]) for row in wanted}
