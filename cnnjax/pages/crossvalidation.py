"""A cross-validation as text for a terminal and as a page, and several seeds as text. All numbers come from its files; nothing is computed anew."""

import statistics
from collections.abc import Mapping

from cnnjax import config as config_lib
from cnnjax import runs
from cnnjax.metrics import METRICS, Score, interval_text, present
from cnnjax.pages.blocks import Block, Charts, Note, Page, Section, Table, Tiles
from cnnjax.pages.figures import SERIES
from cnnjax.pages.rates import rate_curves
from cnnjax.pages.record import fitting, read_record
from cnnjax.pages.report import text_of
from cnnjax.pages.tables import aligned
from cnnjax.progress import counted

COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "macro_auc",
    "sensitivity",
    "specificity",
    "log_loss",
)  # of the rows of folds


def crossvalidation_text(found: runs.CrossValidation) -> str:
    """Returns the rows of the folds, the numbers of the whole with their intervals, and the notes, as text."""
    header, rows = _rows(found)
    scores = [(_title(name), *_interval(score)) for name, score in _shown(found).items()]
    lines = [aligned(header, rows), "", aligned(("all folds", "value", _percent(found.level)), scores), ""]
    return "\n".join([*lines, *(f"  {line}" for line in found.notes)])


def crossvalidation_page(run: runs.RunDirectory, found: runs.CrossValidation) -> Page:
    """Returns the page of a cross-validation. Raises CheckpointError for numbers that no run has."""
    own = run.path.resolve().name
    with fitting(run):
        evaluations = {row.name: _of_fold(run, row.name) for row in found.rows}
        sections = [_result(found), _folds(found, evaluations), _curves(run, found), _config(run)]
    name = found.name or own
    title = name if name == own else f"{name}: {own}"
    classes = ", ".join(found.classes[:6]) + (f" and {len(found.classes) - 6} more" if len(found.classes) > 6 else "")
    return Page(title, f"Cross-validation of image classification: {classes}. {_many(found)}", sections)


def seeds_table(results: dict[int, dict], split: str, classes: int) -> str:
    """Returns the metrics of several seeds on a split, a row for each, with their mean and standard deviation, as text."""
    columns = {name: m for name, m in present(results.values(), classes).items() if m.higher_is_better is not None}
    rows = [(str(seed), *(m.text(numbers.get(name)) for name, m in columns.items())) for seed, numbers in results.items()]
    for title, of in {"mean": statistics.mean, "SD": statistics.stdev}.items():
        values = {name: [numbers[name] for numbers in results.values() if numbers.get(name) is not None] for name in columns}
        rows.append((title, *(m.text(of(values[name]) if len(values[name]) > 1 else None) for name, m in columns.items())))
    return aligned(("seed", *(f"{split} {m.title}" for m in columns.values())), rows)


def _many(found: runs.CrossValidation) -> str:
    groups = f" of {counted(found.groups, found.unit)}" if found.groups else ""
    times = f", divided {found.repeats} times" if found.repeats > 1 else ""
    return f"{counted(found.images, 'image')}{groups} in {found.folds} folds{times}; {len(found.rows)} networks."


def _title(name: str) -> str:
    return METRICS[name].title if name in METRICS else name


def _shown(found: runs.CrossValidation) -> dict[str, Score]:
    """The scores without those that say the same as others: of classes of about equal size, and the loss before calibration."""
    shown = present((row.numbers for row in found.rows), len(found.classes))
    return {name: score for name, score in found.scores.items() if name in shown and name != "loss"}


def _percent(level: float) -> str:
    return f"{100 * level:g} % interval"


def _interval(score: Score) -> tuple[str, str]:
    """A value and its interval as text, or the reason why there is none."""
    return _four(score.value), interval_text(score, ".4f") or score.note


def _rows(found: runs.CrossValidation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header, a row for each fold, and the standard deviation between them."""
    shown = present((row.numbers for row in found.rows), len(found.classes))
    names = [name for name in COLUMNS if name in shown]
    cooled = any(row.temperature is not None for row in found.rows)
    header = ("fold", *((f"{found.unit}s",) if found.groups else ()), "images", *(_title(name) for name in names), "epochs", "best",
              *(("T",) if cooled else ()))  # fmt: skip
    rows = []
    for row in found.rows:
        numbers = (_four(row.numbers.get(name)) for name in names)
        heat = (_two(row.temperature),) if cooled else ()
        rows.append((row.name, *((f"{row.groups:,}",) if found.groups else ()), f"{row.images:,}", *numbers, str(row.epochs),
                     str(row.best_epoch), *heat))  # fmt: skip
    blank = ("",) * (2 if found.groups else 1)
    rows.append(("SD", *blank, *(_four(found.spread.get(name)) for name in names), "", "", *(("",) if cooled else ())))
    return header, rows


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _result(found: runs.CrossValidation) -> Section:
    tiles = []
    for name in COLUMNS:
        score = _shown(found).get(name)
        if score is None or score.value is None:
            continue
        between = f", {score.low:.3f} to {score.high:.3f}" if None not in (score.low, score.high) else ""
        tiles.append((f"{score.value:.3f}", f"{_title(name)}{between}"))
    rows = [
        (_title(name), *_interval(score), _four(found.pooled[name]) if name in found.pooled else "")
        for name, score in _shown(found).items()
    ]
    beside = bool(found.pooled)
    header = ("", "value", _percent(found.level), *(("of all predictions together",) if beside else ()))
    blocks: list[Block] = [Tiles(tiles)]
    blocks.append(Table(header, [row if beside else row[:3] for row in rows], "Every image once in each repeat, judged by a network that has seen "
                        f"neither it nor its {found.unit}."))  # fmt: skip
    blocks += [Note(line) for line in found.notes]
    if found.positive:
        blocks.append(Note(f"Sensitivity, specificity, AUC and average precision are those of {found.positive}."))
    return Section("Result", blocks)


def _folds(found: runs.CrossValidation, evaluations: Mapping[str, runs.Evaluation | None]) -> Section:
    header, rows = _rows(found)
    blocks: list[Block] = [
        Note("A fold is the test part of its own network; the next fold is its validation part, and the others are trained on. Each is a run of "
             "its own, with its page in folds/."),
        Table(header, rows, "SD is the standard deviation between folds; T the temperature that divides the logits, - where nothing was calibrated."),
    ]  # fmt: skip
    if all(evaluations.values()) and len(found.classes) <= 20:
        counts = [
            (name, *(f"{evaluation.per_class[c]['images']:,}" for c in found.classes))
            for name, evaluation in evaluations.items()
        ]
        blocks.append(Table(("fold", *found.classes), counts, "Images of each class in the test part."))
    return Section("Folds", blocks)


def _of_fold(run: runs.RunDirectory, name: str) -> runs.Evaluation | None:
    """The evaluation of a fold's test part; None where its run was removed."""
    return _directory(run, name).read_evaluation("test")


def _directory(run: runs.RunDirectory, name: str) -> runs.RunDirectory:
    repeat, _, fold = name.removeprefix("r").partition("k")
    return runs.fold_run(run, int(repeat), int(fold))


def _curves(run: runs.RunDirectory, found: runs.CrossValidation) -> Section:
    """The curves of up to as many networks as there are colours."""
    if not found.positive or len(found.rows) > len(SERIES):
        return Section("Curves", [])
    lines = {}
    for row in found.rows:
        directory = _directory(run, row.name)
        record = read_record(directory) if directory.is_run() else None
        scores = record.scores() if record else None
        if scores:
            lines[row.name] = (*scores, record.judgement)
    return Section("Curves", [Charts(rate_curves(lines, mark=False))] if len(lines) > 1 else [])


def _config(run: runs.RunDirectory) -> Section:
    standard = dict(config_lib.flatten(config_lib.default()))
    config = dict(config_lib.flatten(run.read_config()))
    rows = [(key, text_of(value), text_of(standard.get(key, ""))) for key, value in config.items()
            if text_of(value) != text_of(standard.get(key, ""))]  # fmt: skip
    return Section("Config", [Table(("key", "value", "default"), rows, "What differs from the default", left=3)])
