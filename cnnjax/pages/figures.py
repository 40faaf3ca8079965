"""Figures: their style, a PNG file of one, and SVG text that takes the colours of the page around it."""

import functools
import io
import os
import re
from pathlib import Path

# Okabe and Ito's palette, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, SKY, PURPLE, AMBER = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
# In the SVG of a page these three become the colours of its text, its muted text and its lines, light or dark.
INK, MUTED, LINE = "#1f2328", "#656d76", "#d8dee4"
WIDTH = 4.7  # inches; with 9-point text readable on a phone and in a column of a desktop page
_STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cnnjax",
}


def figure(width: float = WIDTH, height: float = 2.9, layout: str | None = "constrained"):
    """Returns a figure. pyplot is not used: it keeps global state and looks for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def short(name: str, most: int = 26) -> str:
    """Returns a name for an axis or a legend, a long one without its middle; the tables of a page have it whole."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def styled(draw):
    """Decorates a function that makes a figure: matplotlib reads its settings while artists are made."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def save(drawn, path: Path, dpi: int = 150) -> None:
    """Writes a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        drawn.savefig(temporary, dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def svg(drawn) -> str:
    """Returns a figure as an <svg> element, which scales and takes the font and colours of the page."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend|FillBetween\w*|PathCollection|'
                     r'LineCollection)_\d+"', "", element)  # fmt: skip
    element = re.sub(r"font: (?:\w+ )?([\d.]+px)[^;\"]*", r"font-size: \1", element)
    for colour, variable in ((INK, "currentColor"), (MUTED, "var(--muted)"), (LINE, "var(--line)")):
        element = element.replace(colour, variable)
    return element
