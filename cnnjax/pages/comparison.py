"""The page of several runs side by side: the answer of their comparison, then the numbers of their files."""

from collections.abc import Mapping

from cnnjax.evidence import Comparison
from cnnjax.metrics import METRICS, present, score_text
from cnnjax.pages import plots
from cnnjax.pages.blocks import Charts, Note, Page, Section, Table, halves
from cnnjax.pages.figures import svg
from cnnjax.pages.paired import answer_section, flips_section
from cnnjax.pages.rates import rate_curves
from cnnjax.pages.record import Record, fitting
from cnnjax.pages.sureness import interval_of
from cnnjax.pages.tables import text_of
from cnnjax.progress import duration
from cnnjax.runs import CrossValidation


def comparison_page(records: Mapping[str, Record], comparison: Comparison) -> Page:
    """Returns the page of two or more runs, by name. Raises CheckpointError for numbers that no run has."""
    title = " against ".join(records) if len(records) < 4 else f"{len(records)} runs"
    *others, last = (record.called(name) for name, record in records.items())
    with fitting(*(record.directory for record in records.values())):
        sections = [
            answer_section(comparison),
            flips_section(comparison, records),
            _numbers(records),
            _curves(records),
            _difference(records),
        ]
    return Page(title, f"Runs {', '.join(others)} and {last} side by side.", sections)


def crossvalidations_page(found: Mapping[str, CrossValidation], comparison: Comparison) -> Page:
    """Returns the page of two or more cross-validations, by name."""
    keys = [key for key in METRICS if all(key in own.scores for own in found.values())]
    rows = [(METRICS[key].title, *(score_text(own.scores[key], own.unit) for own in found.values())) for key in keys]
    numbers = Section("Numbers", [Table(("", *found), rows, "Of all folds; AUC is the mean over folds.")])
    title = " against ".join(found) if len(found) < 4 else f"{len(found)} cross-validations"
    return Page(
        title, "Cross-validations side by side.", [answer_section(comparison), flips_section(comparison, {}), numbers]
    )


def _numbers(records: Mapping[str, Record]) -> Section:
    blocks = []
    unfinished = [name for name, record in records.items() if not record.is_finished]
    if unfinished:
        blocks.append(Note(f"Not finished: {', '.join(unfinished)}.", warning=True))
    tests = {tuple(sorted(row[0] for row in record.splits if row[3] == record.judged)) for record in records.values()}
    if len(tests) > 1:
        blocks.append(Note("These runs were not judged on the same images; differences between their numbers may come from "
                           "that.", warning=True))  # fmt: skip
    tables = []
    for split in ("test", "val", "train"):
        rows = []
        results = [record.evaluations[split].numbers if split in record.evaluations else {} for record in records.values()]
        for key, metric in present(results, max(len(record.classes) for record in records.values())).items():
            values = [result.get(key) for result in results]
            sure = (
                interval_of(record.evidence.get(split) if split != "train" else None, key) for record in records.values()
            )
            if any(value is not None for value in values):
                shown = (
                    metric.text(value) + (f" ({told})" if told else "") for value, told in zip(values, sure, strict=True)
                )
                rows.append((f"{split} {metric.title}", *shown))
        tables.append(rows)
    rows = []
    for key, title in {"parameters": "parameters", "images_per_second": "images per second"}.items():
        rows.append((title, *(f"{getattr(r.summary, key):,.0f}" if r.summary else "-" for r in records.values())))
    rows.append(("best epoch", *(str(r.best_row["epoch"]) if r.best_row else "-" for r in records.values())))
    rows.append(("epochs", *(str(len(record.history)) for record in records.values())))
    rows.append(("time", *(duration(r.summary.seconds) if r.summary else "-" for r in records.values())))
    blocks += [Table(("", *records), part) for part in (*tables, rows) if part]
    return Section("Numbers", blocks)


def _curves(records: Mapping[str, Record]) -> Section:
    histories = {name: record.history for name, record in records.items() if record.history}
    if len(histories) < 2:
        return Section("Curves", [])
    best = {name: record.best_step for name, record in records.items()}
    charts = [svg(plots.curves(histories, key, best)) for key in ("accuracy", "loss")]
    scores = {name: record.scores() for name, record in records.items()}
    if all(scores.values()):
        rated = {name: (*scores[name], record.judgement) for name, record in records.items()}
        charts += rate_curves(rated)
    return Section("Curves", [Charts(charts)])


def _difference(records: Mapping[str, Record]) -> Section:
    keys = list(dict.fromkeys(key for record in records.values() for key in record.config))
    rows = [(key, *(text_of(record.config.get(key, "-")) for record in records.values())) for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return Section("Config", [Note("The configs are the same.")])
    return Section("Config", [Note("What differs:"), *halves(Table(("key", *records), rows, left=1 + len(records)))])
