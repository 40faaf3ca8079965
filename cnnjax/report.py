"""Pictures and tables from what a run wrote. Never touches an accelerator."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from cnnjax.metrics import shown
from cnnjax.progress import duration

# Okabe and Ito's palette, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
_KINDS = {
    "input": "#F0E442",
    "whiten": "#F0E442",
    "conv": "#56B4E9",
    "norm": "#CC79A7",
    "pool": "#E69F00",
    "dropout": "#BBBBBB",
    "flatten": "#DDDDDD",
    "dense": GREEN,
}


def _figure(width: float, height: float, layout: str | None = "constrained"):
    """A figure without pyplot, which would keep global state and look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def _save(figure, path: Path, dpi: int = 150) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(temporary, dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_curves(path: Path, history: Sequence[dict], best_step: int, name: str) -> None:
    """Accuracy and loss against the epoch, training and validation, with the best epoch marked."""
    figure = _figure(10, 4)
    epochs = [row["epoch"] for row in history]
    best = [row for row in history if row["step"] == best_step]
    for axes, key in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for column, label, colour in ((key, "training", BLUE), (f"val_{key}", "validation", ORANGE)):
            axes.plot(epochs, [row[column] for row in history], color=colour, label=label, linewidth=2,
                      marker="o" if len(epochs) < 3 else None)  # fmt: skip
        title = key
        if best:
            value = best[0][f"val_{key}"]
            axes.axvline(best[0]["epoch"], color=GREY, linewidth=1, linestyle=":")
            axes.plot(best[0]["epoch"], value, "o", color=ORANGE)
            title += f": {value:.3f} in validation at the best epoch, {best[0]['epoch']}"
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right" if key == "accuracy" else "upper right")
    figure.suptitle(name, x=0.01, ha="left", color=GREY, fontsize=10)
    _save(figure, path)


def draw_network(path: Path, table: Sequence, size: int, name: str) -> None:
    """The network from left to right: a slab per layer, as high as its output in pixels, as deep as its channels."""
    from matplotlib.patches import Polygon

    slabs = [("input", "input", (size, size, 3), 0)]
    slabs += [(row.name, row.kind, row.shape, row.parameters) for row in table if row.kind not in ("norm", "flatten")]
    cell = max(0.97, 9.0 / len(slabs))  # inches for each layer; a data unit is an inch
    figure = _figure(cell * len(slabs) + 0.3, 4.6, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (label, kind, shape, parameters) in enumerate(slabs):
        if len(shape) == 3:
            height, depth, slant = 0.5 + 1.9 * shape[0] / size, 0.1 + 0.045 * math.log2(shape[2]), 0.3 * cell
        else:
            height, depth, slant = 0.35 + 0.17 * math.log2(max(shape[0], 1)), 0.14, 0.06
        middle = (i + 0.5) * cell + 0.15
        left, low, high = middle - (depth + slant) / 2, 2.45 - height / 2, 2.45 + height / 2
        right, up = left + depth, 0.8 * slant
        faces = (
            ([(left, low), (right, low), (right, high), (left, high)], 1.0),
            ([(left, high), (left + slant, high + up), (right + slant, high + up), (right, high)], 0.75),
            ([(right, low), (right + slant, low + up), (right + slant, high + up), (right, high)], 0.5),
        )
        for points, alpha in faces:
            axes.add_patch(Polygon(points, facecolor=_KINDS[kind], alpha=alpha, edgecolor="#333333", linewidth=0.7))
        axes.text(middle, 0.95, label, ha="center", va="top", fontsize=10, fontweight="bold")
        axes.text(middle, 0.73, "×".join(map(str, shape)), ha="center", va="top", fontsize=9)
        if parameters:
            axes.text(middle, 0.53, f"{parameters:,}", ha="center", va="top", fontsize=9, color=GREY)
    total, mflops = sum(row.parameters for row in table), sum(row.mflops for row in table)
    title = f"{name}: {total:,} parameters, {mflops:,.1f} million operations per image"
    axes.text(0.2, 4.4, title, fontsize=13, fontweight="bold", va="top")
    axes.text(0.2, 0.2, "output (height × width × channels), and the layer's parameters", fontsize=9, color=GREY)
    axes.set_xlim(0, cell * len(slabs) + 0.3)
    axes.set_ylim(0, 4.6)
    axes.axis("off")
    _save(figure, path, dpi=160)


def network_table(table: Sequence) -> str:
    """Layer, output shape, parameters and MFLOP per image, as text."""
    rows = [(r.name, " x ".join(map(str, r.shape)), f"{r.parameters:,}" if r.parameters else "",
             f"{r.mflops:.3f}" if r.mflops else "") for r in table]  # fmt: skip
    rows.append(("total", "", f"{sum(r.parameters for r in table):,}", f"{sum(r.mflops for r in table):.3f}"))
    return aligned(("layer", "output", "parameters", "MFLOP/image"), rows, left=2)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A plain text table; the first `left` columns are aligned left, the others right."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = (
        "  " + "  ".join(f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def history_header() -> str:
    """Column names above the rows of `history_row`."""
    return "   epoch     step     loss  accuracy  val_loss  val_accuracy  images/s      time"


def history_row(row: dict, epochs: int, *, best: bool) -> str:
    """An epoch in one line."""
    epoch = f"{row['epoch']}/{epochs}"
    return (
        f"  {epoch:>6} {row['step']:>8} {row['loss']:>8.4f} {row['accuracy']:>9.4f} {row['val_loss']:>9.4f} "
        f"{row['val_accuracy']:>13.4f} {row['images_per_second']:>9,.0f} {duration(row['seconds']):>9}{'  best' if best else ''}"
    )


def numbers_table(summary: dict) -> str:
    """The numbers of each split at the best step, as text."""
    columns = [("images", "images"), ("loss", "loss"), ("accuracy", "accuracy"), ("auc", "AUC"),
               ("sensitivity", "sensitivity"), ("specificity", "specificity"), ("top5_accuracy", "top-5")]  # fmt: skip
    splits = {name: summary[name] for name in ("train", "val", "test") if summary.get(name)}
    columns = [c for c in columns if any(c[0] in numbers for numbers in splits.values())]
    rows = [
        (name, *(f"{numbers[k]:,}" if k == "images" else shown(numbers[k]) for k, _ in columns))
        for name, numbers in splits.items()
    ]
    return aligned(("split", *(title for _, title in columns)), rows)


def details_text(result: dict) -> str:
    """An evaluation as text: headline numbers, per class, and the confusion matrix up to ten classes."""
    lines = [numbers_table({result["split"]: result}), ""]
    rows = [(name, f"{n['images']:,}", shown(n["precision"]), shown(n["recall"]), shown(n["f1"]))
            for name, n in result["per_class"].items()]  # fmt: skip
    lines.append(aligned(("class", "images", "precision", "recall", "F1"), rows))
    if len(result["classes"]) <= 10:
        rows = [(name, *map(str, row)) for name, row in zip(result["classes"], result["confusion"], strict=True)]
        lines += ["", aligned(("true \\ predicted", *result["classes"]), rows)]
    return "\n".join(lines)
