"""Evaluations of several runs on the same images, joined by the id of the image."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.errors import CheckpointError
from cnnjax.evidence.table import Table, read_out_of_fold, read_table
from cnnjax.metrics import Groups, Side
from cnnjax.progress import counted
from cnnjax.runs import RunDirectory, is_crossvalidation

ENOUGH = 0.9  # share of each run's images that all runs have; below, they were not judged on the same
FOLDS = "out-of-fold"
JUDGED = ("test", "val")  # the splits that are compared, the first that a run has


class UnlikeError(Exception):
    """Runs that were not judged on the same images; the text says why."""


@dataclasses.dataclass(frozen=True)
class Joined:
    """Runs on the images that all of them have.

    Attributes:
        split: test or val; `FOLDS` for cross-validations.
        ids: text [n], sorted.
        labels: int [n].
        groups: of the images, those of the first run that has any.
        classes: names, in the first run's order.
        positive: the positive class of two, the first run's; -1 for more classes.
        sides: run -> its answers.
        notes: lines about what does not fit.
    """

    split: str
    ids: Sequence[str]
    labels: np.ndarray
    groups: Groups
    classes: Sequence[str]
    positive: int
    sides: Mapping[str, Side]
    notes: Sequence[str]


def join(runs: Mapping[str, RunDirectory]) -> Joined:
    """Joins the evaluations of runs by the ids of their images.

    Args:
        runs: name -> two or more runs, or as many cross-validations.

    Raises:
        UnlikeError: they were judged on other images or classes, or one is without an evaluation.
        CheckpointError: an image has two labels, or a file is damaged.
    """
    split = _split_of(runs)
    tables = {name: read_out_of_fold(run) if split == FOLDS else read_table(run, split) for name, run in runs.items()}
    (first, table), *others = tables.items()
    for name, other in others:
        if set(other.classes) != set(table.classes):
            raise UnlikeError(f"{first} has the classes {_listed(table.classes)}, {name} has {_listed(other.classes)}")
    places = {name: {id: i for i, id in enumerate(own.ids)} for name, own in tables.items()}
    ids = sorted(set.intersection(*map(set, places.values())))
    notes = _overlap(runs, split, places, len(ids))
    rows = {name: np.array([places[name][id] for id in ids]) for name in tables}
    orders = {
        name: [own.classes.index(label) for label in table.classes] for name, own in tables.items()
    }  # first's class -> own
    labels = table.labels[rows[first]]
    for name, other in others:
        changed = np.flatnonzero(np.argsort(orders[name])[other.labels[rows[name]]] != labels)
        if len(changed):
            raise CheckpointError(f"{counted(len(changed), 'image')} of {len(ids):,} {'has' if len(changed) == 1 else 'have'} another label in "
                                  f"{name} than in {first}, such as {ids[changed[0]]!r}; compare runs that were trained on the same labels")  # fmt: skip
    if any((own.positive >= 0) and own.classes[own.positive] != table.classes[table.positive] for own in tables.values()):
        notes.append(f"the positive class is that of {first}, {table.classes[table.positive]}")
    positive = -1 if split == FOLDS else table.positive  # scores of the networks of folds share no scale
    sides = {name: _side(own, rows[name], orders[name], positive) for name, own in tables.items()}
    return Joined(split, ids, labels, _groups(tables, rows, notes), table.classes, table.positive, sides, notes)


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def _split_of(runs: Mapping[str, RunDirectory]) -> str:
    """The split on which runs were judged."""
    folds = [name for name, run in runs.items() if is_crossvalidation(run)]
    if len(folds) == len(runs):
        return FOLDS
    if folds:
        raise UnlikeError(
            f"{folds[0]} is a cross-validation and {next(name for name in runs if name not in folds)} a run; compare like with like"
        )
    found = {}
    for name, run in runs.items():
        here = (split for split in JUDGED if run.evaluation(split).exists() and run.predictions(split).exists())
        found[name] = next(here, "")
        if not found[name]:
            raise UnlikeError(
                f"{name} has no evaluation with a row for each image; write it with --mode=eval --workdir={run}"
            )
    if len(set(found.values())) > 1:
        raise UnlikeError("; ".join(f"{name} was judged on {split}" for name, split in found.items()))
    return next(iter(found.values()))


def _overlap(
    runs: Mapping[str, RunDirectory], split: str, places: Mapping[str, Mapping[str, int]], shared: int
) -> list[str]:
    """Lines about images that are not in all runs. Raises UnlikeError where they are too many, or another part of a run."""
    every = set().union(*places.values())
    for name, run in runs.items():
        if missing := every - places[name].keys():
            elsewhere = 0 if split == FOLDS else sum(id in missing and part != split for id, part in _parts(run))
            if elsewhere:
                raise UnlikeError(f"{counted(elsewhere, f'{split} image')} of the others {'is' if elsewhere == 1 else 'are'} not in the {split} part of "
                                  f"{name}, which has {len(places[name]):,}; train with --config.split.file=RUN/splits.csv of another")  # fmt: skip
        if shared < ENOUGH * len(places[name]) or not shared:
            raise UnlikeError(
                f"only {shared:,} of {counted(len(places[name]), f'{split} image')} of {name} are {split} images of all"
            )
    return (
        [f"{shared:,} of {len(every):,} {split} images are in all runs; the others are left out"]
        if shared < len(every)
        else []
    )


def _parts(run: RunDirectory) -> list[tuple[str, str]]:
    """(id, split) of each image of a run."""
    rows = run.read_rows(run.splits)
    try:
        header = next(rows, ["id", "split"])
        id, part = header.index("id"), header.index("split")
        return [(row[id], row[part]) for row in rows]
    except (ValueError, IndexError):
        raise CheckpointError(f"{run.splits} is damaged (not the columns id and split); restore it from a copy") from None


def _side(table: Table, rows: np.ndarray, order: Sequence[int], positive: int) -> Side:
    """Answers in the first run's order of classes; `order` leads from there to the table's own."""
    scores = None
    if positive >= 0:
        logits = table.logits[rows][:, order]
        scores = logits[:, positive] - logits[:, 1 - positive]
    return Side(np.argsort(order)[table.predicted[rows]], table.probabilities[rows][:, order], scores)


def _groups(tables: Mapping[str, Table], rows: Mapping[str, np.ndarray], notes: list[str]) -> Groups:
    """The groups of the joined images, those of the first run that has any; a note where another run has others."""
    names = {name: [table.groups.names[i] for i in table.groups.index[rows[name]]] for name, table in tables.items()}
    grouped = [name for name, table in tables.items() if table.groups.named]
    chosen = grouped[0] if grouped else next(iter(tables))
    if others := [name for name in tables if names[name] != names[chosen]]:
        notes.append(f"groups are those of {chosen}; {', '.join(others)} {'has' if len(others) == 1 else 'have'} others")
    return Groups.of(names[chosen], tables[chosen].groups.unit)
