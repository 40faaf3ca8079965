"""The predictions of all folds of a cross-validation, put together from the files of their runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import metrics, runs
from cnnjax.errors import CheckpointError
from cnnjax.evidence import OUT_OF_FOLD, read_decided, unit_of

LOWEST = -745.0  # logarithm of the smallest float64


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
    tables, evaluation = [], None
    for repeat, part in folds.names:
        one = runs.fold_run(run, repeat, part)
        evaluation = one.read_evaluation("test")
        if evaluation is None:
            raise CheckpointError(f"{one} has no evaluation of test; write it with --mode=eval --workdir={one} --split=test")
        tables.append(_table(one, np.asarray(folds.ids, object)[folds.parts[repeat] == part]))
    header = max((header for header, _ in tables), key=len)
    for name, (other, _) in zip(folds.names, tables, strict=True):
        if other != header:
            one = runs.fold_run(run, *name)
            raise CheckpointError(f"{one} has a table of predictions without {', '.join(set(header) - set(other)) or 'the order of the others'}; write it "
                                  f"anew with --mode=eval --workdir={one} --config.evidence.calibration={config.evidence.calibration}")  # fmt: skip
    whole = [row for _, table in tables for row in table]
    networks = np.repeat(np.arange(len(tables)), [len(table) for _, table in tables])
    predictions, groups = _predictions(config, evaluation, header, whole)
    rows = [_row(runs.fold_run(run, *name), predictions.kept(networks == number), table[1])
            for number, (name, table) in enumerate(zip(folds.names, tables, strict=True))]  # fmt: skip
    found = _results(config, folds, rows, evaluation, predictions, groups, networks)
    if write:
        places = (folds.names[number] for number in networks)
        run.write_rows(
            run.predictions(OUT_OF_FOLD),
            (*header, "repeat", "fold"),
            ((*row, *place) for row, place in zip(whole, places, strict=True)),
        )
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


def _row(run: runs.RunDirectory, predictions: metrics.Predictions, table: Sequence[Sequence[str]]) -> runs.Fold:
    summary = run.expect_summary()
    best = next((row["epoch"] for row in run.read_history() if row["step"] == summary.best_step), 0)
    groups = len({row[1] for row in table} - {""})
    return runs.Fold(name=run.path.name, images=len(table), groups=groups, epochs=summary.epochs, best_epoch=int(best),
                     temperature=_temperature(run), numbers=metrics.numbers(predictions))  # fmt: skip


def _temperature(run: runs.RunDirectory) -> float | None:
    """The number that the logits of a run are divided by; None where they are not calibrated."""
    calibration, _ = read_decided(run)
    return calibration.temperature if calibration and calibration.method != "none" else None


def _results(config: config_lib.Config, folds: data_lib.Folds, rows: list[runs.Fold], evaluation: runs.Evaluation,
             predictions: metrics.Predictions, groups: metrics.Groups, networks: np.ndarray) -> runs.CrossValidation:  # fmt: skip
    level, repeats = config.evidence.level, len(folds.parts)
    together = metrics.numbers(predictions)
    beside = {name: together[name] for name in metrics.ORDERS if name in together}
    spread = {name: float(np.std(values, ddof=1)) for name, values in _values(rows)}
    if repeats == 1:
        scores = metrics.pooled(predictions, networks, groups, level=level)
        notes = ["An interval of 95 % covers about 90 %: the training set's own chance is not in it. --config.split.repeats=5 with the same --workdir "
                 "adds that chance."]  # fmt: skip
    else:
        over = 1 / (folds.count - 2)  # images of the test part for each image of the training part
        scores = {name: metrics.nadeau_bengio(values, over, level) for name, values in _values(rows)}
        notes = [f"Means over {len(rows)} networks, with the corrected interval of Nadeau and Bengio: of a network that is trained on other images "
                 "like these."]  # fmt: skip
    for name, value in beside.items():
        if name != "average_precision" and value is not None:
            notes.append(
                f"AUC is the mean over folds: the scores of different networks share no scale. Of all predictions together it is {value:.4f}."
            )
    return runs.CrossValidation(
        name=config.name, folds=folds.count, repeats=repeats, classes=evaluation.classes, positive=evaluation.positive, images=len(folds.ids),
        groups=len(set(folds.groups) - {""}), unit=unit_of(config.data), level=level, rows=tuple(rows), scores=scores, pooled=beside, spread=spread,
        notes=tuple(notes))  # fmt: skip


def _values(rows: Sequence[runs.Fold]) -> Iterator[tuple[str, list[float]]]:
    """The metrics that every fold has, with the value of each fold."""
    for name, metric in metrics.METRICS.items():
        values = [row.numbers.get(name) for row in rows]
        if metric.link and None not in values:
            yield name, values


def _predictions(config: config_lib.Config, evaluation: runs.Evaluation, header: Sequence[str], whole: Sequence[Sequence[str]]
                 ) -> tuple[metrics.Predictions, metrics.Groups]:  # fmt: skip
    classes = evaluation.classes
    place, index = {name: i for i, name in enumerate(header)}, {name: i for i, name in enumerate(classes)}
    positive = index[evaluation.positive] if evaluation.positive else -1
    try:
        p, z = (_numbers(whole, [place.get(f"{kind}_{name}") for name in classes]) for kind in ("p", "z"))
        labels, called = (np.array([index[row[place[name]]] for row in whole]) for name in ("label", "predicted"))
        if p is None:
            raise ValueError("a probability is missing")
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"a table of predictions is damaged ({error}); restore the cross-validation from a copy"
        ) from None
    if z is None:
        with np.errstate(divide="ignore"):
            z = np.maximum(np.log(p), LOWEST)
    groups = metrics.Groups.of([row[place["group"]] for row in whole], unit_of(config.data))
    return metrics.Predictions(z, labels, positive, p, called, config.evidence.prevalence), groups


def _numbers(whole: Sequence[Sequence[str]], columns: Sequence[int | None]) -> np.ndarray | None:
    """Columns of numbers, float64 [n, columns]; None where one of them is not there."""
    if None in columns:
        return None
    found = np.array([[float(row[column]) for column in columns] for row in whole])
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found
