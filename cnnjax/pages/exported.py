"""An exported file beside the run that it is of, as text."""

from collections.abc import Mapping
from typing import Any

from cnnjax.metrics import METRICS, Score, interval_text
from cnnjax.pages.tables import aligned


def export_text(check: Mapping[str, Any]) -> str:
    """Returns how far an exported file is from its run.

    Args:
        check: "images", "largest", "same", "metrics", "bytes", "seconds" and "float32", as `<output>.json` has them.
    """
    if not check["metrics"]:
        return f"{check['bytes'] / 1e6:,.1f} MB, the same bits as the run's weights"
    lines = [
        f"on {check['images']:,} images of validation, in a process without cnnjax: largest difference of a probability "
        f"{check['largest']:.2g}; the same class for {check['same']:,}",
        aligned(["", "run", "", "file", "", "file - run", ""], [_row(name, row) for name, row in check["metrics"].items()]),
        f"size     {check['bytes'] / 1e6:,.1f} MB{_beside(check, 'bytes')}",
    ]
    notes = {
        side["note"] for row in check["metrics"].values() for side in row.values() if side["low"] is side["high"] is None
    }
    lines[2:2] = [f"without intervals: {note}" for note in sorted(notes - {""})]
    for count, seconds in check["seconds"].items():
        named = "an image" if count == 1 else f"{count} images"
        lines.append(f"time     {1e3 * seconds:,.1f} ms for {named}{_beside(check, 'seconds', count)}")
    return "\n".join(lines)


def _row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    run, file = (Score(**row[side]) for side in ("run", "file"))
    found = [METRICS[name].title, f"{run.value:.4f}", interval_text(run), f"{file.value:.4f}", interval_text(file)]
    difference = Score(**row["difference"])
    return (*found, f"{difference.value:+.2g}", interval_text(difference, "+.2g"))


def _beside(check: Mapping[str, Any], kind: str, count: int = 0) -> str:
    """The same of float32, and the ratio of the two."""
    if not check["float32"] or not check["float32"][kind]:
        return ""
    if kind == "bytes":
        return f", {check['bytes'] / check['float32']['bytes']:.2f} of float32"
    return f", {check['float32']['seconds'][count] / check['seconds'][count]:.2f} times as fast as float32 (medians of calls by turns)"
