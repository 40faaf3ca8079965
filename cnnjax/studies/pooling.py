"""The predictions of all folds of a cross-validation, put together from the files of their runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import metrics, runs
from cnnjax.errors import CheckpointError

LOWEST = -745.0  # logarithm of the smallest float64
OUT_OF_FOLD = "oof"  # name of the evaluation
SURE = "about 90 % where it says 95 %: the training set's own chance is not in it"


def pool(run: runs.RunDirectory, folds: data_lib.Folds, config: config_lib.Config, *, write: bool) -> runs.CrossValidation:
    """Returns the results of a cross-validation whose networks are all trained.

    Args:
        run: its directory.
        folds: the fold of each image.
        config: of the cross-validation.
        write: write `eval/oof.csv` and `crossvalidation.json`.

    Raises:
        CheckpointError: a file of one of the runs is missing, damaged, or of other images than those of its fold.
    """
    rows, tables = [], []
    for repeat, part in folds.names:
        one = runs.RunDirectory(run.fold(repeat, part))
        evaluation = one.read_evaluation("test")
        if evaluation is None:
            raise CheckpointError(f"{one} has no evaluation of test; write it with --mode=eval --workdir={one} --split=test")
        header, table = _table(one, np.asarray(folds.ids, object)[folds.parts[repeat] == part])
        rows.append(_row(one, evaluation, table))
        tables.append((repeat, part, header, table))
    header = tables[0][2]
    if any(other != header for _, _, other, _ in tables):
        raise CheckpointError(f"the runs in {run.folds} have tables with different columns; write {run.fold(0, 0)}/eval/test.csv and the others "
                              "anew with --mode=eval")  # fmt: skip
    whole = [(repeat, part, row) for repeat, part, _, table in tables for row in table]
    if write:
        run.write_rows(
            run.predictions(OUT_OF_FOLD), (*header, "repeat", "fold"), ((*row, repeat, part) for repeat, part, row in whole)
        )
    found = _results(config, folds, rows, evaluation, header, whole)
    if write:
        run.write_json(run.crossvalidation, found.to_dict())
    return found


def _table(run: runs.RunDirectory, ids: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the test predictions of a run. Raises CheckpointError where they are not those of `ids`."""
    path = run.predictions("test")
    header, *rows = run.read_rows(path) if path.exists() else [[]]
    again = f"write it anew with --mode=eval --workdir={run} --split=test"
    if header[:4] != ["id", "group", "label", "predicted"] or any(len(row) != len(header) for row in rows):
        raise CheckpointError(f"{path} is missing or damaged; {again}")
    if sorted(row[0] for row in rows) != sorted(ids):
        raise CheckpointError(f"{path} is not of the images of its fold; {again}")
    return header, rows


def _row(run: runs.RunDirectory, evaluation: runs.Evaluation, table: Sequence[Sequence[str]]) -> runs.Fold:
    summary = run.expect_summary()
    best = next((row["epoch"] for row in run.read_history() if row["step"] == summary.best_step), 0)
    return runs.Fold(
        name=run.path.name, images=len(table), groups=len({row[1] for row in table} - {""}), epochs=summary.epochs, best_epoch=int(best),
        temperature=None, numbers=metrics.summarized(evaluation))  # fmt: skip


def _results(config: config_lib.Config, folds: data_lib.Folds, rows: list[runs.Fold], evaluation: runs.Evaluation,
             header: Sequence[str], whole: Sequence[tuple[int, int, Sequence[str]]]) -> runs.CrossValidation:  # fmt: skip
    level, repeats = config.evidence.level, len(folds.parts)
    pooled = _pooled(evaluation, folds.count, header, whole)
    beside = pooled.orders()
    spread = {name: float(np.std(values, ddof=1)) for name, values in _values(rows)}
    if repeats == 1:
        scores = pooled.scores(level)
        notes = [f"The interval is {SURE}. --config.split.repeats=5 with the same --workdir adds it."]
    else:
        over = 1 / (folds.count - 2)  # images of the test part for each image of the training part
        scores = {name: metrics.nadeau_bengio(values, over, level) for name, values in _values(rows)}
        notes = [f"Means over {len(rows)} networks, with the corrected interval of Nadeau and Bengio: of a network that is trained on other images "
                 "like these."]  # fmt: skip
    if beside:
        notes.append(f"AUC is the mean over folds: the scores of different networks share no scale. Of all predictions together it is "
                     f"{beside['auc']:.4f}.")  # fmt: skip
    groups = len(set(folds.groups) - {""})
    return runs.CrossValidation(
        name=config.name, folds=folds.count, repeats=repeats, classes=evaluation.classes, positive=evaluation.positive, images=len(folds.ids),
        groups=groups, level=level, rows=tuple(rows), scores=scores, pooled=beside, spread=spread, notes=tuple(notes))  # fmt: skip


def _values(rows: Sequence[runs.Fold]) -> Iterator[tuple[str, list[float]]]:
    """The metrics that every fold has, with the value of each fold."""
    for name in rows[0].numbers:
        values = [row.numbers.get(name) for row in rows]
        directed = name in metrics.METRICS and metrics.METRICS[name].higher_is_better is not None
        if directed and all(value is not None for value in values):
            yield name, values


def _pooled(evaluation: runs.Evaluation, count: int, header: Sequence[str], whole: Sequence[tuple[int, int, Sequence[str]]]
            ) -> metrics.Pooled:  # fmt: skip
    classes = evaluation.classes
    place, index = {name: i for i, name in enumerate(header)}, {name: i for i, name in enumerate(classes)}
    positive = index[evaluation.positive] if evaluation.positive else -1
    try:
        p, z = (_numbers(whole, [place.get(f"{kind}_{name}") for name in classes]) for kind in ("p", "z"))
        labels, called = (np.array([index[row[place[name]]] for _, _, row in whole]) for name in ("label", "predicted"))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"a table of predictions is damaged ({error}); restore the cross-validation from a copy"
        ) from None
    if z is None:
        with np.errstate(divide="ignore"):
            z = np.maximum(np.log(p), LOWEST)
    groups = metrics.Groups.of([row[place["group"]] for _, _, row in whole])
    networks = np.array([repeat * count + part for repeat, part, _ in whole])
    margin = z[:, positive] - z[:, 1 - positive] if positive >= 0 else np.zeros(len(z))
    return metrics.Pooled(p, margin, labels, called, networks, groups, positive)


def _numbers(whole: Sequence[tuple[int, int, Sequence[str]]], columns: Sequence[int | None]) -> np.ndarray | None:
    """Columns of numbers, float64 [n, columns]; None where one of them is not there."""
    if None in columns:
        return None
    found = np.array([[float(row[column]) for column in columns] for _, _, row in whole])
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found
