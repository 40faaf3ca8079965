"""Numbers as plain text, for a terminal and for logs."""

import os
import re
from collections.abc import Collection, Sequence

from cnnjax import metrics
from cnnjax.evidence import Evidence
from cnnjax.metrics import shown
from cnnjax.progress import duration


def text_of(value) -> str:
    """Returns a value of a config as text; a list without brackets, and of an absolute path its last name: a page travels."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    kind, place = ("run:", text.removeprefix("run:")) if text.startswith("run:") else ("", text)
    return kind + os.path.basename(place.rstrip("/")) if os.path.isabs(place) else text


def short_paths(line: str) -> str:
    """Returns a line with the last name alone of each path in a command."""
    return re.sub(r"(?<==)/(?:[^/\s;]+/)+", "", line)


def network_table(table: Sequence) -> str:
    """Returns the layers, their output shapes, parameters, those of them that are frozen, and MFLOP per image, as text."""
    rows = [(r.name, " x ".join(map(str, r.shape)), f"{r.parameters:,}" if r.parameters else "",
             *frozen_cells(table, r.frozen), f"{r.mflops:.3f}" if r.mflops else "") for r in table]  # fmt: skip
    rows.append(("total", "", f"{sum(r.parameters for r in table):,}", *frozen_cells(table, sum(r.frozen for r in table)),
                 f"{sum(r.mflops for r in table):.3f}"))  # fmt: skip
    return aligned(("layer", "output", "parameters", *frozen_cells(table, "frozen"), "MFLOP/image"), rows, left=2)


def frozen_cells(table: Sequence, value: int | str) -> tuple[str, ...]:
    """Returns the cell of a column of frozen parameters; none where the whole network is trained."""
    if not any(row.frozen for row in table):
        return ()
    return (value if isinstance(value, str) else f"{value:,}" if value else "",)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a plain text table; the first `left` columns are aligned left, the others right."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = (
        "  " + "  ".join(f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def history_header(first: str = "epoch") -> str:
    """Returns the column names above the rows of `history_row`; of a probe the first is "penalty"."""
    return f"{first:>8}     step     loss  accuracy  val_loss  val_accuracy  images/s      time"


def history_row(row: dict, epochs: int, *, best: str) -> str:
    """Returns an epoch, or a penalty, in one line; `best` tells of what it has the best number so far."""
    epoch = f"{row['penalty']:g}" if "penalty" in row else f"{row['epoch']}/{epochs}"
    return (
        f"  {epoch:>6} {row['step']:>8} {row['loss']:>8.4f} {row['accuracy']:>9.4f} {row['val_loss']:>9.4f} "
        f"{row['val_accuracy']:>13.4f} {row['images_per_second']:>9,.0f} {duration(row['seconds']):>9}{f'  {best}' if best else ''}"
    )


def numbers_table(summary: dict) -> str:
    """Returns the metrics of each split at the best step, as text."""
    splits = {name: summary[name] for name in ("train", "val", "test") if summary.get(name)}
    return _metrics_table(splits, len(summary["classes"]))


def _metrics_table(splits: dict[str, dict], classes: int) -> str:
    """A row of metrics for each evaluation."""
    columns = metrics.present(splits.values(), classes)
    rows = [(name, *(m.text(numbers.get(key)) for key, m in columns.items())) for name, numbers in splits.items()]
    return aligned(("split", *(m.title for m in columns.values())), rows)


def intervals_text(name: str, evidence: Evidence, shown_of: Collection[str] = ()) -> str:
    """Returns the metrics of an evaluation with their intervals as text: `accuracy  0.953 (0.931 to 0.969; 40 patients, 23 count)`.

    Args:
        name: of the evaluation.
        evidence: of it.
        shown_of: names of metrics to show; (): all of them.
    """
    keys = [key for key in evidence.metrics if key != "loss" and (key in shown_of or not shown_of)]
    scores = {key: evidence.metrics[key] for key in keys}
    titles = {key: metrics.title_of(key, evidence.prevalence) for key in scores}
    width = max(map(len, titles.values()), default=0)
    name = "train, which the network has seen" if name == "train" else name
    if all(score.low is score.high is None for score in scores.values()):
        told = f"  {name}: no intervals ({scores['accuracy'].note if 'accuracy' in scores else 'see the page'})"
        values = (
            [] if shown_of else [f"  {titles[key]:<{width}}  {metrics.shown(score.value)}" for key, score in scores.items()]
        )
        return "\n".join([told, *values])
    lines = [f"  {titles[key]:<{width}}  {metrics.score_text(score, evidence.unit)}" for key, score in scores.items()]
    few = any(map(metrics.is_few, scores.values()))
    return "\n".join([f"  {name}, with {100 * evidence.level:g} % intervals", *lines,
                      *([f"  ! fewer than ten {evidence.unit}s count"] if few else [])])  # fmt: skip


def time_text(summary: dict) -> str:
    """Tells where a run's time went, and which part of its training was spent waiting for images."""
    spent = {name: seconds for name, seconds in summary["spent"].items() if name != "augmentation"}
    names = {"step": "training", "compile": "compiling", "checkpoint": "checkpoints"}
    parts = sorted(spent.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{names.get(name, name)} {duration(seconds)}" for name, seconds in parts if seconds >= 0.1)
    waited = spent["input"] / max(spent["input"] + spent["step"], 1e-9)
    return f"{shown}; waiting for images took {100 * waited:.1f} % of the training"


def positive_text(name: str) -> str:
    """Returns whose AUC, sensitivity and specificity the tables show, of two classes."""
    return f"AUC, sensitivity and specificity are those of {name} (data.positive)"


def details_text(result: dict) -> str:
    """Returns an evaluation as text: metrics, numbers of each class, and the confusion matrix up to ten classes."""
    lines = [_metrics_table({result["split"]: result}, len(result["classes"]))]
    lines += [f"  {positive_text(result['positive'])}", ""] if result.get("positive") else [""]
    rows = [(name, f"{n['images']:,}", shown(n["precision"]), shown(n["recall"]), shown(n["f1"]))
            for name, n in result["per_class"].items()]  # fmt: skip
    lines.append(aligned(("class", "images", "precision", "recall", "F1"), rows))
    if len(result["classes"]) <= 10:
        rows = [(name, *map(str, row)) for name, row in zip(result["classes"], result["confusion"], strict=True)]
        lines += ["", aligned(("true \\ predicted", *result["classes"]), rows)]
    return "\n".join(lines)
