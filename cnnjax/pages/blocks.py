"""Self-contained HTML pages from sections of tables, charts and photos; the looks are in page.html."""

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax import data as data_lib
from cnnjax import runs
from cnnjax.errors import CheckpointError
from cnnjax.pages import plots

SIGNED = b"Made by cnnjax."  # at the end of every page


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    warning: bool = False
    kind: str = "note"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Headline numbers: (value, what it is)."""

    items: Sequence[tuple[str, str]]
    kind: str = "tiles"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text; the first `left` columns are aligned left. `shades` colours cells from 0 to 1."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    left: int = 1
    shades: Sequence[Sequence[float]] | None = None
    folded: str = ""  # a title under which the table is folded away
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts side by side: SVG elements."""

    items: Sequence[str]
    wide: bool = False  # one chart that scrolls where the screen is narrow
    kind: str = "charts"


@dataclasses.dataclass(frozen=True)
class Photo:
    pixels: np.ndarray | bytes  # uint8 [h, w], [h, w, 3], or an encoded PNG or JPEG
    caption: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos in a grid under a title; on a phone in three columns."""

    title: str
    items: Sequence[Photo]
    columns: int
    text: str = ""
    kind: str = "photos"


@dataclasses.dataclass(frozen=True)
class Beside:
    """Photos beside each other, two or three (`narrow`) in a row, where the screen is wide enough."""

    items: Sequence[Photos]
    narrow: bool = False
    kind: str = "beside"


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Note | Tiles | Table | Charts | Photos | Beside]


def data_uri(pixels: np.ndarray | bytes) -> tuple[str, bool]:
    """An image as a data: address, and whether it is so small that its pixels should be shown as squares."""
    encoded = pixels if isinstance(pixels, bytes) else data_lib.thumbnail(pixels)
    kind = "png" if encoded.startswith(data_lib.PNG_SIGNATURE) else "jpeg"
    height, width = data_lib.decode(encoded).shape[:2]
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", max(height, width) <= 64


def check_replaceable(path: Path) -> None:
    """Raises CheckpointError where something is that is no such page."""
    if path.is_dir() or (path.exists() and SIGNED not in path.read_bytes()[-200:]):
        raise CheckpointError(f"{path} exists, is no page of cnnjax and is not overwritten; delete it, or name another place with "
                              "--output=FILE or --workdir=DIR")  # fmt: skip


def write(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Writes the page, whole or not at all. It needs no other file and no network.

    Raises:
        CheckpointError: as `check_replaceable`.
    """
    import jinja2

    check_replaceable(path)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("cnnjax.pages", "."), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # fmt: skip
    environment.filters["data_uri"] = data_uri
    template = environment.get_template("page.html")
    runs.write_text(path, template.render(title=title, subtitle=subtitle, sections=sections, blue=plots.BLUE))
