"""Charts and pictures of runs and of images, each a figure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.pages.figures import AMBER, BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, SKY, figure, short, styled

_KINDS = {
    "input": "#F0E442",
    "whiten": "#F0E442",
    "conv": SKY,
    "norm": PURPLE,
    "embed": PURPLE,
    "pool": AMBER,
    "block": SKY,
    "average": AMBER,
    "token": AMBER,
    "dropout": "#BBBBBB",
    "flatten": "#DDDDDD",
    "dense": GREEN,
}


def plain(axes, grid: str = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _measure(axes, runs: Mapping[str, Sequence[dict]], key: str, best: Mapping[str, int]) -> None:
    alone = len(runs) == 1
    title = key.capitalize() if alone else f"Validation {key}, the best epochs marked"
    for (name, rows), colour in zip(runs.items(), SERIES * len(runs), strict=False):
        turn = "penalty" if alone and "penalty" in rows[0] else "epoch"
        epochs = [row[turn] for row in rows]
        dots = "o" if len(epochs) < 3 else None
        if alone:
            axes.plot(epochs, [row[key] for row in rows], color=BLUE, label="training", marker=dots)
            colour = ORANGE
        axes.plot(
            epochs,
            [row[f"val_{key}"] for row in rows],
            color=colour,
            label="validation" if alone else short(name, 34),
            marker=dots,
        )
        for row in (row for row in rows if row["step"] == best.get(name)):
            axes.plot(row[turn], row[f"val_{key}"], "o", color=colour, markersize=6)
            if alone:
                axes.axvline(row[turn], color=MUTED, linewidth=0.8, linestyle=":")
                title += f": {row[f'val_{key}']:.3f} in validation at the best {turn}, {row[turn]:g}"
    axes.set_title(title)
    axes.set_xlabel(turn)
    if turn == "penalty":
        axes.set_xscale("log")
        axes.invert_xaxis()  # the strongest is fitted first
    else:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(loc="best", fontsize=8)
    plain(axes)


@styled
def curves(runs: Mapping[str, Sequence[dict]], key: str, best: Mapping[str, int]):
    """Draws a measure against the epoch: training and validation of one run, or validation of each of several.

    Args:
        runs: name -> rows of `history.csv`.
        key: accuracy or loss.
        best: name -> step to mark.
    """
    drawn = figure()
    _measure(drawn.subplots(), runs, key, best)
    return drawn


@styled
def history(rows: Sequence[dict], best_step: int, name: str):
    """Draws accuracy and loss of one run side by side, for `curves.png`."""
    drawn = figure(10, 4)
    for axes, key in zip(drawn.subplots(1, 2), ("accuracy", "loss"), strict=True):
        _measure(axes, {name: rows}, key, {name: best_step})
    drawn.suptitle(name, x=0.01, ha="left", color=MUTED, fontsize=10)
    return drawn


@styled
def learning_rates(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, suggested: float | None, name: str):
    """Draws the loss over the learning rate, and marks the suggested one."""
    drawn = figure(6, 3.6)
    axes = drawn.subplots()
    axes.plot(rates, losses, color=SKY, linewidth=0.8, label="of each batch")
    axes.plot(rates, smooth, color=BLUE, label="averaged")
    title = "No learning rate lowers the loss"
    if suggested:
        axes.axvline(suggested, color=ORANGE, linestyle=":")
        title = f"Begin with {suggested:g}, a quarter of the rate with the lowest loss"
    axes.set_xscale("log")
    axes.set_ylim(0, 2 * max(smooth[:5].mean(), 1e-6))
    axes.set_title(f"{name}: {title}" if name else title)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend(loc="lower left", fontsize=8)
    plain(axes)
    return drawn


@styled
def bars(title: str, values: Mapping[str, Mapping[str, float]], unit: str = ""):
    """Draws horizontal stacked bars, row -> {part -> value}, and writes the total behind each."""
    parts = list(dict.fromkeys(part for row in values.values() for part in row))
    drawn = figure(height=max(1.2, 0.75 + 0.27 * len(values) + (0.25 if len(parts) > 1 else 0)))
    axes = drawn.subplots()
    names = list(values)
    left = np.zeros(len(names))
    for part, colour in zip(parts, SERIES * len(parts), strict=False):
        widths = np.array([values[name].get(part, 0) for name in names], float)
        axes.barh(range(len(names)), widths, left=left, color=colour, label=part, height=0.68)
        left += widths
    for i, total in enumerate(left):
        shown = f"{total:,.0f}" if total >= 100 or total == int(total) else f"{total:,.1f}"
        axes.annotate(f"{shown}{unit}", (total, i), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(names)), map(short, names))
    axes.set_xlim(0, max(left.max(), 1e-9) * 1.2)
    axes.invert_yaxis()
    drawn.suptitle(title, x=0.01, ha="left", fontsize=10)
    if len(parts) > 1:
        axes.legend(ncols=len(parts), loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelcolor=INK)
    return drawn


def _same_height(figures: Sequence, lowest: float) -> list:
    """Gives figures that are compared with each other the same vertical axis, from 0 to the highest or at least `lowest`."""
    top = max([lowest, *(drawn.axes[0].get_ylim()[1] for drawn in figures)])
    for drawn in figures:
        drawn.axes[0].set_ylim(0, top)
    return list(figures)


@styled
def histograms(panels: Mapping[str, Mapping[str, Sequence[float]]], label: str, *, log: bool = False, count: str = "images"):
    """Draws figures with the same bins and axes, title -> name -> values: in each an outline for each name."""
    everything = np.concatenate([np.asarray(values, float) for series in panels.values() for values in series.values()])
    drawn = [_histogram(title, series, everything, label, log, count) for title, series in panels.items()]
    return _same_height(drawn, 0)


def _histogram(title: str, series: Mapping[str, Sequence[float]], everything: np.ndarray, label: str, log: bool, count: str):
    drawn = figure(height=2.4)
    axes = drawn.subplots()
    low, high = everything.min(), everything.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    if log and low > 0:
        edges = np.geomspace(low, high, 25)
        axes.set_xscale("log")
        round_ones = np.array(
            [m * 10.0**e for e in range(-3, 7) for m in ((1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5))]
        )
        axes.set_xticks([x for x in round_ones if low <= x <= high], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        edges = np.linspace(low, high, min(31, max(len(np.unique(everything)) + 1, 6)))
    for (name, values), colour in zip(series.items(), SERIES * len(series), strict=False):
        axes.hist(values, edges, histtype="stepfilled", color=colour, alpha=0.25 if len(series) > 1 else 0.6)
        axes.hist(values, edges, histtype="step", color=colour, label=short(name), linewidth=1.4)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel(count)
    if len(series) > 1:
        axes.legend(fontsize=8)
    plain(axes)
    return drawn


@styled
def colours(levels: Mapping[str, np.ndarray]):
    """Draws figures with the same axes, title -> histograms of red, green and blue, float [3, 256], each with the sum 1."""
    return _same_height([_colours(title, counts) for title, counts in levels.items()], 1e-6)


def _colours(title: str, counts: np.ndarray):
    drawn = figure(height=2.2)
    axes = drawn.subplots()
    for row, colour, name in zip(counts, ("#D1242F", "#2DA44E", "#0969DA"), ("red", "green", "blue"), strict=True):
        style = {"red": "-", "green": "--", "blue": ":"}[name]  # told apart without colour too
        axes.plot(100 * row, color=colour, linewidth=1.4, linestyle=style, label=name)
    # Black margins would press everything else flat.
    inside = 100 * counts[:, 2:254]
    axes.set_ylim(0, max(1.15 * inside.max(), 1e-6))
    axes.set_xlim(0, 255)
    axes.set_xticks([0, 64, 128, 192, 255])
    axes.set_title(short(title, 50))
    axes.set_xlabel("level")
    axes.set_ylabel("% of pixels")
    axes.legend(fontsize=8)
    plain(axes)
    return drawn


@styled
def rates(kind: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray, str]], base: float, mark: tuple | None = None,
          threshold: float = 0.5, *, bold: str | None = None, title: str = ""):  # fmt: skip
    """Draws ROC or precision-recall curves.

    Args:
        kind: "roc" or "pr".
        lines: name -> (x, y, text for the legend).
        base: share of positives, which a classifier without knowledge reaches as precision.
        mark: (x, y) of the threshold that is used.
        threshold: that one.
        bold: name of the line that stands out.
        title: in place of that of the kind.
    """
    drawn = figure(height=3.6)
    axes = drawn.subplots()
    for i, (name, (x, y, label)) in enumerate(lines.items()):
        colour, style = (
            SERIES[i % len(SERIES)],
            ("-", "--", ":")[i // len(SERIES) % 3],
        )  # told apart where colours come again
        stands_out = {"color": INK, "linewidth": 2.6} if name == bold else {"color": colour, "linestyle": style}
        axes.plot(x, y, label=label, drawstyle="steps-post" if kind == "pr" else "default", **stands_out)
    chance = ([0, 1], [0, 1]) if kind == "roc" else ([0, 1], [base, base])
    axes.plot(*chance, color=MUTED, linewidth=0.8, linestyle=":", label="chance")
    if mark:
        axes.plot(*mark, "o", color=ORANGE, label=f"probability {threshold:.3g}")
    axes.set_title(title or ("ROC" if kind == "roc" else "Precision and recall"))
    axes.set_xlabel("1 - specificity" if kind == "roc" else "recall (sensitivity)")
    axes.set_ylabel("sensitivity" if kind == "roc" else "precision")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_aspect("equal")
    axes.legend(loc="lower right" if kind == "roc" else "lower left", fontsize=8)
    plain(axes, "both")
    return drawn


@styled
def matrix(counts: np.ndarray, names: Sequence[str]):
    """Draws a confusion matrix, for more classes than a table can show: true classes in rows, predicted in columns."""
    from matplotlib.colors import LinearSegmentedColormap

    drawn = figure(6.2, 5.6)
    axes = drawn.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    scale = LinearSegmentedColormap.from_list("", ["#ffffff", BLUE])
    axes.imshow(share, cmap=scale, vmin=0, vmax=1)
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return drawn


@styled
def photos(title: str, images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 3):
    """Draws images in a grid, each with its caption."""
    rows = math.ceil(len(images) / columns)
    drawn = figure(2.0 * columns, 2.25 * rows + 0.35)
    grid = np.atleast_1d(drawn.subplots(rows, columns)).ravel()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) <= 64 else "antialiased", vmin=0, vmax=255,
                    cmap="gray")  # fmt: skip
        axes.set_title(caption, fontsize=8, loc="center")
    for axes in grid:
        axes.axis("off")
    drawn.suptitle(title, x=0.01, ha="left", fontsize=10)
    return drawn


@styled
def network(table: Sequence, sides: tuple[int, int], name: str = ""):
    """Draws the network from left to right: a slab per layer, as high as its output in pixels, as deep as its channels.

    With a name, a title and a line of explanation stand in the drawing.
    """
    from matplotlib.patches import Polygon

    slabs = [("input", "input", (*sides, 3), 0)]
    slabs += [(row.name, row.kind, row.shape, row.parameters) for row in table if row.kind not in ("norm", "flatten")]
    cell = max(0.97, 9.0 / len(slabs))  # inches for each layer; a data unit is an inch
    bottom, top = (0.0, 4.6) if name else (0.3, 4.05)
    drawn = figure(cell * len(slabs) + 0.3, top - bottom, layout=None)
    axes = drawn.add_axes((0, 0, 1, 1))
    for i, (label, kind, shape, parameters) in enumerate(slabs):
        if len(shape) == 3:
            height, depth, slant = 0.5 + 1.9 * shape[0] / sides[0], 0.1 + 0.045 * math.log2(shape[2]), 0.3 * cell
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
            axes.add_patch(Polygon(points, facecolor=_KINDS[kind], alpha=alpha, edgecolor=INK, linewidth=0.7))
        axes.text(middle, 0.95, label, ha="center", va="top", fontsize=10, fontweight="bold")
        axes.text(middle, 0.73, "×".join(map(str, shape)), ha="center", va="top", fontsize=9)
        if parameters:
            axes.text(middle, 0.53, f"{parameters:,}", ha="center", va="top", fontsize=9, color=MUTED)
    if name:
        total, mflops = sum(row.parameters for row in table), sum(row.mflops for row in table)
        title = f"{name}: {total:,} parameters, {mflops:,.1f} million operations per image"
        axes.text(0.2, 4.4, title, fontsize=13, fontweight="bold", va="top")
        axes.text(0.2, 0.2, "output (height × width × channels), and the layer's parameters", fontsize=9, color=MUTED)
    axes.set_xlim(0, cell * len(slabs) + 0.3)
    axes.set_ylim(bottom, top)
    axes.axis("off")
    return drawn
