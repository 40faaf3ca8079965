"""The table of an evaluation, `eval/<name>.csv`, as arrays."""

import csv
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.errors import CheckpointError
from cnnjax.metrics import Groups, Predictions
from cnnjax.runs import RunDirectory, read_crossvalidation, text_of_cell

LOWEST = -745.0  # logarithm of the smallest float64; of a probability of 0
OUT_OF_FOLD = "oof"  # name of the evaluation of a cross-validation
ROUNDING = 1e-3  # by which probabilities of an image may miss the sum of 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """An evaluation, image by image.

    Attributes:
        ids: text [n].
        groups: of the images.
        labels: int [n], the true class.
        classes: names.
        positive: index of the positive class of two; -1 for more classes.
        logits: float64 [n, classes], as the network gave them; of a table without them, logarithms of the probabilities.
        probabilities: float64 [n, classes], calibrated.
        predicted: int [n], the class that was called.
    """

    ids: Sequence[str]
    groups: Groups
    labels: np.ndarray
    classes: Sequence[str]
    positive: int
    logits: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray

    def predictions(self, prevalence: float = 0.0) -> Predictions:
        """Returns what metrics are computed of; the prevalence is that of the positive class in use, 0 where it is not stated."""
        return Predictions(self.logits, self.labels, self.positive, self.probabilities, self.predicted, prevalence)

    @functools.cached_property
    def margin(self) -> np.ndarray:
        """The logit of the positive class above that of the other, float64 [n], of two classes."""
        return np.clip(self.predictions().margin, LOWEST, -LOWEST)


def read_table(run: RunDirectory, name: str) -> Table:
    """Reads an evaluation of a run.

    Args:
        run: its directory.
        name: of the evaluation: a split, `data-<set>`, or either with a step.

    Raises:
        CheckpointError: there is none, its files do not fit each other, or a value is not one that an evaluation writes.
    """
    evaluation, path = run.read_evaluation(name), run.predictions(name)
    if evaluation is None or not path.exists():
        raise CheckpointError(f"{run} has no evaluation {name!r}; write it with --mode=eval --workdir={run}")
    run.sealed.check(path)
    unit = unit_of(run.read_config()["data"])
    try:
        return _table(_columns(path), evaluation.classes, evaluation.positive, unit)
    except (ValueError, LookupError, csv.Error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged ({reason}); write it anew with --mode=eval --workdir={run}") from None


def read_out_of_fold(run: RunDirectory) -> Table:
    """Reads what a cross-validation says of each image, by the network that has not seen it; of several repeats ids end in their number.

    Raises:
        CheckpointError: it has not come to its end, or a file is damaged.
    """
    found, path = read_crossvalidation(run), run.predictions(OUT_OF_FOLD)
    try:
        run.sealed.check(path)
        columns = _columns(path)
        table = _table(columns, found.classes, found.positive, found.unit)
        if found.repeats == 1:
            return table
        return dataclasses.replace(
            table, ids=[f"{id} #{turn}" for id, turn in zip(table.ids, columns["repeat"].to_pylist(), strict=True)]
        )
    except (ValueError, LookupError, csv.Error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is damaged ({reason}); write it anew with --mode=crossvalidate and its --config"
        ) from None


def _columns(path: Path) -> dict[str, Any]:
    """Returns the columns of a table by name: texts, as Arrow arrays, and numbers, float64 [n]."""
    from pyarrow import csv as arrow  # holds a column in its own bytes; a million rows of the csv module are a gigabyte

    with open(path, newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    names = [text_of_cell(cell) for cell in header]
    if len(set(names)) < len(names):
        raise ValueError("two columns have one name")
    numbers = {cell for cell, name in zip(header, names, strict=True) if name.startswith(("p_", "z_"))}
    options = arrow.ConvertOptions(
        column_types={cell: "float64" if cell in numbers else "string" for cell in header}, strings_can_be_null=False
    )
    table = arrow.read_csv(path, parse_options=arrow.ParseOptions(newlines_in_values=True), convert_options=options)
    if table.column_names != header:
        raise ValueError("the header is not that of a table")
    read = (column.to_numpy() if cell in numbers else column for cell, column in zip(header, table.columns, strict=True))
    return dict(zip(names, read, strict=True))


def _table(columns: Mapping[str, Any], classes: Sequence[str], positive: str, unit: str) -> Table:
    missing = [name for name in ("id", "group", "label", "predicted", *(f"p_{c}" for c in classes)) if name not in columns]
    if missing:
        raise ValueError(f"the column {missing[0]} is missing")
    if not len(columns["id"]):
        raise ValueError("no row")
    index = {name: i for i, name in enumerate(classes)}
    labels, predicted = (_of_names(columns[name], index) for name in ("label", "predicted"))
    p = _numbers(columns, [f"p_{c}" for c in classes])
    if p.min() < 0 or p.max() > 1 or np.abs(p.sum(1) - 1).max() > ROUNDING:
        raise ValueError("probabilities are not between 0 and 1, or do not add up to 1")
    raw = [f"z_{c}" for c in classes]
    if all(name in columns for name in raw):
        logits = _numbers(columns, raw)
    else:
        with np.errstate(divide="ignore"):
            logits = np.maximum(np.log(p), LOWEST)
    return Table(
        ids=_texts(columns["id"]),
        groups=Groups.of(_texts(columns["group"]), unit),
        labels=labels,
        classes=tuple(classes),
        positive=index[positive] if positive else -1,
        logits=logits,
        probabilities=p,
        predicted=predicted,
    )


def _texts(column: Any) -> list[str]:
    return [text_of_cell(text) if "'" in text else text for text in column.to_pylist()]


def _of_names(column: Any, index: Mapping[str, int]) -> np.ndarray:
    coded = column.combine_chunks().dictionary_encode()
    places = np.array(
        [index[text_of_cell(text)] for text in coded.dictionary.to_pylist()], np.int64
    )  # KeyError: not a class
    return places[coded.indices.to_numpy()]


def _numbers(columns: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    values = np.stack([columns[name] for name in names], axis=1)
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    return values


def unit_of(data: Mapping[str, Any]) -> str:
    """Returns what a group of images is called: the name of a named group in `data.group`, as in `(?P<patient>^C\\d+)`, else "group".

    Of a table, "patient" where the column that `data.columns` names for groups says so.

    Args:
        data: the section of a run's config.
    """
    if named := re.search(r"\(\?P<([A-Za-z]{1,20})>", str(data["group"])):
        return named[1]
    column = next((entry for entry in data["columns"] if str(entry).startswith("group=")), "")
    return "patient" if "patient" in str(column).lower() else "group"
