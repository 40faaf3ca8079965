"""Pages as a browser shows them: without an error, a request or a clipped picture."""

import re

import numpy as np
import pytest

from cnnjax.pages import blocks, plots
from cnnjax.pages.figures import svg


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_a_browser_shows_every_page_whole(browser, two, three, explored, compared, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for path in (two.workdir / "report.html", three.workdir / "report.html", compared, explored.two, explored.three):
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        assert said == [] and [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        for details in page.query_selector_all("details"):
            details.evaluate("e => e.open = true")
        seen = page.evaluate("""() => ({
            scroll: document.documentElement.scrollWidth,
            broken: [...document.images].filter(i => !i.complete || !i.naturalWidth || i.clientWidth < 40).length,
            images: document.images.length,
            flat: [...document.querySelectorAll('svg')].filter(s => s.clientWidth < 200 || s.clientHeight < 50).length,
            small: [...document.querySelectorAll('td, th, p, figcaption')].filter(
                e => parseFloat(getComputedStyle(e).fontSize) < 12).length,
            hidden: [...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth
                && getComputedStyle(t.parentElement).overflowX != 'auto').length,
            chart: Math.min(...[...document.querySelectorAll('.row > .chart > svg')].map(s =>
                s.querySelector('text').getBoundingClientRect().height)),
            drawing: Math.min(...[...document.querySelectorAll('.wide svg')].map(s =>
                s.querySelector('text').getBoundingClientRect().height)),
            ground: getComputedStyle(document.body).backgroundColor})""")
        assert seen["scroll"] <= width, "the page scrolls sideways"
        assert (seen["broken"], seen["flat"], seen["small"], seen["hidden"]) == (0, 0, 0, 0)
        assert seen["images"] > 0 or path == compared
        assert seen["chart"] >= 9 and seen["drawing"] >= 9, "labels of charts are too small to read"
        assert (seen["ground"] == "rgb(255, 255, 255)") == (scheme == "light")
        page.close()
    context.close()


LONG = ("C100P61ThinF_IMG_20150918_144104_cell_162.png", "13289268363_b9337d751e_from-the.camera.jpeg",
        "Tomato___Septoria_leaf_spot", "0123456789abcdef" * 4 + "_and_more.png")  # fmt: skip
# Lines that end inside a name, and not behind a sign.
CUT = """() => [...document.querySelectorAll('h1, h3, th, td, header p, figcaption > *')].flatMap(e => {
    const found = [], range = document.createRange(), texts = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
    let line = '', before = null;
    while (texts.nextNode()) for (let i = 0; i < texts.currentNode.length; i++) {
        range.setStart(texts.currentNode, i); range.setEnd(texts.currentNode, i + 1);
        const letter = range.toString(), top = range.getBoundingClientRect().top;
        if (letter.trim() && before != null && top > before + 4) {
            if (!' /_-.:,'.includes(line.at(-1))) found.push(line);
            line = '';
        }
        if (letter.trim()) before = top;
        line += letter;
    }
    return found;
})"""


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """A page of names that are too long for a line."""
    photo = np.zeros((24, 24, 3), np.uint8)
    photos = blocks.Photos(LONG[0], [blocks.Photo(photo, LONG[2], f"true: {name} · {name}") for name in LONG[:3]], 6)
    drawing = svg(plots.bars("Images of each class, by split", {name: {"train": 3.0, "val": 1.0} for name in LONG}))
    sections = [
        blocks.Section("names", [
            blocks.Table(("file", "reason"), [(name, f"{name} is not an image") for name in LONG], left=2),
            blocks.Table(("run", *LONG[:3]), [("accuracy", "0.5", "0.6", "0.7")]),
        ]),
        blocks.Section("pictures", [photos, blocks.Charts([drawing])]),
        blocks.Section("narrow", [blocks.Table(("class", "images", "precision", "recall"), [("a", "1,000", "0.5", "0.5")]),
                                  blocks.Table(("split", "images", "accuracy"), [("validation", "2,000", "0.5000")])]),
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("long") / "page.html"
    blocks.write_page(path, blocks.Page(f"one: {LONG[0]}", f"Run {LONG[1]}.", sections))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_long_names_break_where_a_reader_would_break_them(browser, long_names, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(long_names.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    cut = page.evaluate(CUT)
    assert [line for line in cut if line.strip("0123456789abcdef")] == [], "these names have better places to break"
    assert cut or width == 1280, "a name without such a place is cut too"
    narrow = page.evaluate("""() => [...document.querySelectorAll('td.left, figcaption > *')].filter(
        e => e.textContent.length > 11 && e.getBoundingClientRect().width < 95).map(e => e.textContent)""")
    assert narrow == []
    page.close()


@pytest.mark.slow
def test_narrow_tables_stand_beside_each_other_where_there_is_room(browser, long_names):
    for width, together in ((1280, True), (375, False)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(long_names.as_uri())
        tops = page.evaluate("[...document.querySelectorAll('#s3 ~ .row > div')].map(e => e.getBoundingClientRect().top)")
        assert len(tops) == 2 and (tops[0] == tops[1]) == together
        page.close()


def test_pages_hold_everything_themselves(two, three, explored, compared):
    for path in (two.workdir / "report.html", three.workdir / "report.html", compared, explored.two, explored.three):
        html = path.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "@import" not in html and "<script" not in html
        assert not re.search(r"url\((?!#)", html)


def test_names_of_classes_and_files_are_escaped(three, explored):
    for path in (three.workdir / "report.html", explored.three):
        html = path.read_text(encoding="utf-8")
        assert "<b>bold" not in html and "<i>not" not in html and "a &lt;b&gt;bold one" in html
        assert "C1&lt;i&gt;not" in html, "the file that was left out is named"


def test_tables_shade_and_fold(tmp_path):
    table = blocks.Table(("a", "b"), [("x", "1")], shades=[[0.5]])
    folded = blocks.Table(("c",), [("<y>",)], folded="more & more")
    blocks.write_page(tmp_path / "page.html", blocks.Page("t <1>", "s", [blocks.Section("one", [table, folded])]))
    html = (tmp_path / "page.html").read_text()
    assert "0.38" in html and "more &amp; more" in html and "&lt;y&gt;" in html and "t &lt;1&gt;" in html


def test_names_may_break_behind_signs_and_never_before_an_ending():
    assert str(blocks.breakable("short_name.png")) == "short_name.png"
    assert str(blocks.breakable("daisy/100080576_f52e_n.jpg <b>")) == "daisy/<wbr>100080576_<wbr>f52e_<wbr>n.jpg &lt;b&gt;"


def test_tables_and_charts_that_follow_each_other_share_a_row():
    table, wide, chart = blocks.Table(("a",), [("1",)] * 11), blocks.Charts(["w"], wide=True), blocks.Charts(["c"])
    folded = blocks.Table(("a",), [], folded="more")
    assert list(blocks.rows([table, chart, wide, folded, table])) == [
        blocks.Row([table, chart]),
        wide,
        folded,
        blocks.Row([table]),
    ]
    assert [len(half.rows) for half in blocks.halves(table)] == [6, 5]
