"""Changes of the images and what they cost, as text and as a section of a page."""

from cnnjax.metrics import METRICS, Score, shown
from cnnjax.pages.blocks import Block, Note, Section, Table
from cnnjax.pages.tables import aligned
from cnnjax.runs import Changed, Robustness

SAID = 3  # changes that are told in words
LITTLE = 0.01  # change of accuracy that is not told in words
MUCH = 0.02  # loss of sensitivity or specificity that is told beside


def robustness_text(result: Robustness) -> str:
    """Returns the table for a terminal, worst first, and the worst in words."""
    header, rows = _table(result)
    lines = [f"  {line}" for line in _sentences(result)]
    return "\n".join([aligned(header, rows), "", *lines])


def robustness_section(result: Robustness | None, current: bool) -> Section:
    """Returns the section of a page, empty without a result; `current`: it is of the checkpoint and the threshold of the other numbers."""
    if result is None:
        return Section("Robustness", [])
    header, rows = _table(result)
    some = f"{result.images:,} random" if result.images < result.of else f"all {result.images:,}"
    blocks: list[Block] = [Note(f"{line[0].upper()}{line[1:]}") for line in _sentences(result)]
    blocks.append(Table(header, rows, f"The same images of {result.split} after each change, {some}; the worst first, and intervals of "
                        f"{100 * result.level:g} %. Points are hundredths of accuracy."))  # fmt: skip
    if not current:
        of = f"step {result.step} and a threshold of {result.threshold:.4g}"
        blocks.insert(
            0, Note(f"These are of {of}, not of the other numbers here; --mode=robustness measures anew.", warning=True)
        )
    return Section("Robustness", blocks)


def _table(result: Robustness) -> tuple[list[str], list[tuple[str, ...]]]:
    names = [name for name in result.clean if name != "accuracy"]
    header = ["change", "accuracy", "points", "interval", *(_title(name) for name in names)]
    rows = [("none", shown(result.clean["accuracy"].value), "", "", *(shown(result.clean[name].value) for name in names))]
    for row in result.worst_first:
        change = row.changes["accuracy"]
        rows.append((row.name, shown(row.scores["accuracy"].value), _points(change.value), _reach(change),
                     *(shown(row.scores[name].value) for name in names)))  # fmt: skip
    return header, rows


def _title(name: str) -> str:
    return METRICS[name].title if name in METRICS else name


def _points(value: float | None) -> str:
    """Hundredths with their sign; no "-0.0"."""
    return "-" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"


def _reach(change: Score) -> str:
    if change.low is None or change.high is None:
        return "-"
    return f"{_points(change.low)} to {_points(change.high)}"


def _sentences(result: Robustness) -> list[str]:
    """The worst changes in words, or that none costs much, and why intervals are not given."""
    worst = [row for row in result.worst_first if (row.changes["accuracy"].value or 0) <= -LITTLE]
    lines = [_sentence(row) for row in worst[:SAID]]
    if not lines:
        lines = ["none of these changes costs a point of accuracy."]
    elif len(worst) > SAID:
        lines.append(f"{len(worst) - SAID} more of {len(result.rows)} changes cost a point of accuracy or more.")
    notes = sorted({row.changes["accuracy"].note for row in result.rows if row.changes["accuracy"].low is None} - {""})
    return [*lines, *(f"without an interval: {note}." for note in notes)]


def costs(result: Robustness) -> list[str]:
    """Returns the changes that cost a point of accuracy or more in words, the worst first."""
    worst = [row for row in result.worst_first if (row.changes["accuracy"].value or 0) <= -LITTLE]
    return [_sentence(row).rstrip(".") for row in worst]


def _sentence(row: Changed) -> str:
    """Returns a line such as "noise of 10 levels costs 22 points of accuracy (19 to 25)."."""
    change = row.changes["accuracy"]
    reach = "" if change.low is None or change.high is None else f" ({_lost(change.high)} to {_lost(change.low)})"
    lost = {
        name: score.value
        for name, score in row.changes.items()
        if name in ("sensitivity", "specificity") and score.value is not None
    }
    most = min(lost, key=lost.get, default="")
    more = f", and {_lost(lost[most])} of {most}" if most and lost[most] < min(change.value, -MUCH) else ""
    return f"{row.name} costs {_lost(change.value)} points of accuracy{reach}{more}."


def _lost(value: float) -> str:
    return f"{round(-100 * value, 1) + 0.0:.3g}"
