"""Self-contained HTML pages from sections of tables, charts and photos. Their looks are in page.html."""

import base64
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax import data as data_lib
from cnnjax import runs
from cnnjax.errors import CheckpointError
from cnnjax.pages.figures import BLUE

SIGNED = b"Made by cnnjax."  # stands at the end of every page
# A place inside a name where a line may end: behind a sign, five letters or more to follow, so that no ".jpg" stands alone.
_PLACE = re.compile(r"(?<=\w[/\\_\-.=:,])(?=\w\S{4})")
SCALE = 1.1  # least pixels for each point of a wide chart: its 9-point text stays readable


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    warning: bool = False
    kind: str = "note"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Large numbers: (value, title), or (value, title, what stands below the number)."""

    items: Sequence[tuple[str, ...]]
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

    def least(self, column: int) -> int:
        """Returns the width, in digits, of the longest cell of a column, of letters that are narrower than digits."""
        return round(0.8 * max(len(str(row[column])) for row in (self.header, *self.rows)))


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts side by side: SVG elements, `figures.svg`."""

    items: Sequence[str]
    wide: bool = False  # each across the page, and in a box that scrolls where the screen is too narrow to read it
    kind: str = "charts"


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image with its caption."""

    pixels: np.ndarray | bytes  # uint8 [h, w], [h, w, 3], or an encoded PNG or JPEG
    caption: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos in a grid under a title; on a phone in three columns, or two where a caption needs the width."""

    title: str
    items: Sequence[Photo]
    columns: int
    text: str = ""
    folded: bool = False  # away under the title
    kind: str = "photos"

    @property
    def phone(self) -> int:
        """Number of columns on a phone."""
        words = [word for photo in self.items for word in f"{photo.caption} {photo.detail}".split()]
        return 2 if any(len(word) > 16 or max(map(len, _PLACE.split(word))) > 12 for word in words) else 3


@dataclasses.dataclass(frozen=True)
class Beside:
    """Photos beside each other, two or three (`narrow`) in a row, where the screen is wide enough."""

    items: Sequence[Photos]
    narrow: bool = False
    kind: str = "beside"


Block = Note | Tiles | Table | Charts | Photos | Beside


@dataclasses.dataclass(frozen=True)
class Row:
    """Tables and charts that stand beside each other where the screen is wide enough."""

    items: Sequence[Table | Charts]
    kind: str = "row"


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a title. A page leaves out a section without blocks.

    Attributes:
        title: of the section.
        blocks: what it shows.
        folded: whether the page shows the title alone, which opens the rest.
    """

    title: str
    blocks: Sequence[Block]
    folded: bool = False


def folded(section: Section) -> Section:
    """Returns a section that is folded away under its title."""
    return dataclasses.replace(section, folded=True)


@dataclasses.dataclass(frozen=True)
class Page:
    """Sections under a title."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def data_uri(pixels: np.ndarray | bytes) -> tuple[str, bool]:
    """Returns an image as a data: address, and whether it is so small that its pixels should be shown as squares."""
    encoded = pixels if isinstance(pixels, bytes) else data_lib.thumbnail(pixels)
    kind = "png" if encoded.startswith(data_lib.PNG_SIGNATURE) else "jpeg"
    height, width = data_lib.decode(encoded).shape[:2]
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", max(height, width) <= 64


def rows(blocks: Sequence[Block]) -> Iterator[Block | Row]:
    """Puts tables and charts that follow each other into one row; what is folded or wide stays by itself."""
    together: list[Table | Charts] = []
    for block in blocks:
        if (isinstance(block, Table) and not block.folded) or (isinstance(block, Charts) and not block.wide):
            together.append(block)
            continue
        if together:
            yield Row(together)
            together = []
        yield block
    if together:
        yield Row(together)


def halves(table: Table) -> list[Table]:
    """Splits a long and narrow table in two: beside each other they use the width of a screen."""
    half = (len(table.rows) + 1) // 2 if len(table.rows) >= 10 else len(table.rows)
    return [dataclasses.replace(table, rows=part) for part in (table.rows[:half], table.rows[half:]) if part]


def breakable(text: object, longest: int = 16):
    """Returns text as markup in which lines may end inside words longer than `longest`: behind / _ - . and the like."""
    import markupsafe

    place = markupsafe.Markup("<wbr>")
    words = re.split(r"(\s+)", str(text))
    return markupsafe.Markup("").join(place.join(_PLACE.split(word)) if len(word) > longest else word for word in words)


def least_width(svg: str) -> int:
    """Returns the pixels below which the text of a chart is too small to read."""
    return round(SCALE * float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]))


def html(page: Page) -> str:
    """Returns a page as HTML that needs no other file and no network."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("cnnjax.pages", "."), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # fmt: skip
    environment.filters.update(data_uri=data_uri, rows=rows, breakable=breakable, least_width=least_width)
    sections = [section for section in page.sections if section.blocks]
    return environment.get_template("page.html").render(
        title=page.title, subtitle=page.subtitle, sections=sections, blue=BLUE
    )


def check_replaceable(path: Path) -> None:
    """Raises CheckpointError where a path exists and is not such a page."""
    if path.is_dir() or (path.exists() and SIGNED not in path.read_bytes()[-200:]):
        raise CheckpointError(f"{path} exists, is not a page of cnnjax and is not overwritten; delete it, or name another place with "
                              "--output=FILE or --workdir=DIR")  # fmt: skip


def write_page(path: Path, page: Page) -> None:
    """Writes a page, whole or not at all.

    Raises:
        CheckpointError: as `check_replaceable`.
    """
    check_replaceable(path)
    runs.write_text(path, html(page))
