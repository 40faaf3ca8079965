"""The evidence of an evaluation, computed from its table and written beside it."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from cnnjax import config as config_lib
from cnnjax import metrics
from cnnjax.evidence.decided import decided_numbers
from cnnjax.evidence.properties import read_properties
from cnnjax.evidence.records import Evidence
from cnnjax.evidence.table import Table, read_table
from cnnjax.metrics import Score
from cnnjax.runs import Evaluation, RunDirectory

MOST = 2**27  # probabilities of a table, a gigabyte; of more there are no intervals
FEW_GROUPS = 60  # below them, intervals of accuracy and of losses hold less often than they say
COLUMNS = tuple(field.name for field in dataclasses.fields(metrics.GroupRow))


def write_evidence(run: RunDirectory, name: str, settings: config_lib.Evidence) -> Evidence:
    """Computes the evidence of an evaluation; writes `eval/<name>-evidence.json`, and of groups `eval/<name>-groups.csv`.

    Args:
        run: its directory, with `eval/<name>.json` and `eval/<name>.csv`.
        name: of the evaluation.
        settings: level of confidence, prevalence, resamples.

    Raises:
        CheckpointError: the table is missing or damaged.
    """
    evaluation = run.read_evaluation(name)
    if evaluation is not None and np.sum(evaluation.confusion) * len(evaluation.classes) > MOST:
        made = _without_intervals(evaluation, settings)
    else:
        made = _of_files(run, name, settings)
    run.write_json(run.evidence(name), made.to_dict())
    return made


def _of_files(run: RunDirectory, name: str, settings: config_lib.Evidence) -> Evidence:
    """Returns the evidence of the tables of an evaluation; writes that of groups."""
    table = read_table(run, name)
    made = dataclasses.replace(evidence_of(table, settings), **decided_numbers(run, name, table, settings))
    if columns := read_properties(run, name, table.ids):
        positive = table.labels == table.positive if table.positive >= 0 else None
        rows = metrics.subgroups(table.predicted == table.labels, positive, columns, table.groups, settings.level)
        made = dataclasses.replace(made, subgroups=tuple(rows))
    if table.groups.named:
        rows = metrics.group_rows(table.predictions(), table.groups, settings.level)
        run.write_rows(run.groups(name), COLUMNS, ([getattr(row, column) for column in COLUMNS] for row in rows))
        made = dataclasses.replace(made, groups_table=run.groups(name).name)
    return made


def _without_intervals(evaluation: Evaluation, settings: config_lib.Evidence) -> Evidence:
    """Returns the values alone, of an evaluation whose table is too large to hold."""
    images = int(np.sum(evaluation.confusion))
    note = f"{images:,} images of {len(evaluation.classes):,} classes are too many"
    scores = {name: Score(value=evaluation.numbers[name], note=note) for name, row in metrics.METRICS.items()
              if row.link and name in evaluation.numbers}  # fmt: skip
    return Evidence(level=settings.level, unit="image", groups=images, images=images, effective_groups={}, metrics=scores, checks=(
        f"no intervals: {note}",))  # fmt: skip


def evidence_of(table: Table, settings: config_lib.Evidence) -> Evidence:
    """Returns the evidence of a table; nothing is written."""
    p, groups, level = table.predictions(settings.prevalence), table.groups, settings.level
    two = p.classes == 2
    sides = {"images": np.ones(len(p.labels)), **({"positives": p.is_positive, "negatives": ~p.is_positive} if two else {})}
    scores, spread = metrics.scored(p, groups, level=level), metrics.spread(p, groups)
    bootstrap = metrics.resampled(p, groups, settings.bootstrap, level=level) if settings.bootstrap else {}
    given = any(score.low is not None or score.high is not None for score in scores.values())
    checks = [*_checks(table, settings, given), *_averaged(scores, spread, groups.unit)]
    if settings.bootstrap and not bootstrap:
        checks.append(f"no bootstrap (evidence.bootstrap={settings.bootstrap}): that is for 10 to 2,000 groups, here are "
                      + (f"{groups.count:,}" if groups.named else "none"))  # fmt: skip
    classes = metrics.scored_classes(p, groups, level=level)
    return Evidence(
        level=level,
        unit=groups.unit,
        groups=groups.count,
        images=len(p.labels),
        effective_groups={name: metrics.effective(groups.sums(side)) for name, side in sides.items()},
        prevalence=settings.prevalence if two else 0.0,
        metrics=scores,
        per_class=dict(zip(table.classes, classes, strict=True)) if classes else {},
        bootstrap={name: tuple(ends) for name, ends in bootstrap.items()},
        spread=spread,
        group_auc=metrics.group_auc(p, groups, level) if two and groups.named else None,
        checks=tuple(checks),
    )


def _checks(table: Table, settings: config_lib.Evidence, given: bool) -> Iterator[str]:
    """Yields sentences about what the intervals and the numbers mean."""
    groups, unit = table.groups, table.groups.unit
    if not groups.named:
        yield ("each image counts by itself; where several are of one patient, say, the intervals are too narrow: data.group names the "
               "patients")  # fmt: skip
    elif given:
        yield f"the intervals are for {unit}s like these; a split that balances classes is not a random choice of {unit}s"
        if groups.count < FEW_GROUPS:
            yield (f"with fewer than {FEW_GROUPS} {unit}s, intervals of accuracy, log loss and Brier score hold about 88 of 100 times at a "
                   f"level of 95 %: rare {unit}s hold many of the errors, and a small set often has none of them")  # fmt: skip
    if settings.prevalence and table.positive < 0:
        yield "evidence.prevalence is of the positive class of two, and has no effect on more classes"
    if table.positive >= 0:
        share, name = (table.labels == table.positive).mean(), table.classes[table.positive]
        yield f"{100 * share:.3g} % of these images are {name}; accuracy, F1, average precision and predictive values are of such a set"
        if settings.prevalence:
            yield f"PPV and NPV are for {100 * settings.prevalence:.3g} % {name}, as evidence.prevalence states"


def _averaged(scores: dict[str, Score], spread: dict, unit: str) -> Iterator[str]:
    """Yields a sentence where sensitivity or specificity as a mean over groups is far from that over all images."""
    for name in ("sensitivity", "specificity"):
        mean, pooled = spread.get(f"mean_{name}"), scores.get(name)
        if mean is None or pooled is None or pooled.low is None or pooled.high is None:
            continue
        if abs(mean - pooled.value) > (pooled.high - pooled.low) / 2:
            yield f"{name} is {mean:.3f} as a mean over {unit}s, and {pooled.value:.3f} over images: {unit}s with many images differ from others"
