"""How sure the numbers of an evaluation are: intervals in tiles and tables."""

from collections.abc import Iterable

from cnnjax.evidence import Evidence
from cnnjax.metrics import Score, interval_text, title_of
from cnnjax.pages.blocks import Block, Note, Section, Table


def interval_of(evidence: Evidence | None, key: str) -> str:
    """Returns the interval of a metric as text; "" where there is none."""
    score = evidence.metrics.get(key) if evidence else None
    return interval_text(score) if score else ""


def interval_row(evidence: Evidence | None, keys: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the row of intervals below a row of metrics; [] where there is none."""
    told = [interval_of(evidence, key) for key in keys]
    return [(f"{100 * evidence.level:g} % interval", *told)] if evidence and any(told) else []


def sureness_section(evidence: Evidence | None) -> Section:
    """Shows every metric with its interval, and what the intervals mean."""
    title = "How sure the numbers are"
    if evidence is None:
        return Section(title, [])
    units = f"{evidence.unit}s"
    scores = {
        title_of(key, evidence.prevalence): score for key, score in evidence.metrics.items() if key != "loss"
    }  # log loss is there
    rows = [(name, *_cells(score)) for name, score in scores.items()]
    grouped = evidence.unit != "image"
    count = ", ".join(f"{number:.1f} count for {name}" for name, number in evidence.effective_groups.items())
    told = [f"{evidence.images:,} images of {evidence.groups:,} {units}: {count}. A {evidence.unit} counts less where others hold most of the images."
            if grouped else f"{evidence.images:,} images without groups."]  # fmt: skip
    blocks: list[Block] = [Note(line) for line in told]
    columns = ("metric", "value", f"{100 * evidence.level:g} % interval", f"{units} that count", "method")
    given = any(score.method == "jackknife" for score in evidence.metrics.values())
    caption = (
        f"Jackknife: each interval comes from leaving out one {evidence.unit} at a time, with Student's t." if given else ""
    )
    blocks.append(Table(columns, rows, caption))
    reasons: dict[str, list[str]] = {}
    for name, score in scores.items():
        if not interval_text(score):
            reasons.setdefault(score.note, []).append(name)
    blocks += [Note(f"No interval of {', '.join(names)}: {reason}.") for reason, names in reasons.items()]
    if any("!" in row[2] for row in rows):
        blocks.append(Note(f"! Fewer than ten {units} count: the interval is rough.", warning=True))
    if evidence.bootstrap:
        resampled = [(title_of(key, evidence.prevalence), f"{low:.3f} to {high:.3f}", interval_of(evidence, key))
                     for key, (low, high) in evidence.bootstrap.items()]  # fmt: skip
        blocks.append(
            Table(("metric", "bootstrap", "jackknife"), resampled, folded=f"Intervals from drawing {units} again", left=1)
        )
    blocks += [Note(f"{line[0].upper()}{line[1:]}.") for line in evidence.checks]
    return Section(title, blocks)


def _cells(score: Score) -> tuple[str, str, str, str]:
    value = "-" if score.value is None else f"{score.value:.4f}"
    return value, interval_text(score) or "-", f"{score.effective:,.1f}".removesuffix(".0"), score.method or "-"
