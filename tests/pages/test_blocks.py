"""Pages as a browser shows them: without an error, a request or a clipped picture."""

import re

import pytest

from cnnjax.pages import blocks


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
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
            chart: Math.min(...[...document.querySelectorAll('.charts:not(.wide) svg')].map(s =>
                s.querySelector('text').getBoundingClientRect().height)),
            ground: getComputedStyle(document.body).backgroundColor})""")
        assert seen["scroll"] <= width, "the page scrolls sideways"
        assert (seen["broken"], seen["flat"], seen["small"], seen["hidden"]) == (0, 0, 0, 0)
        assert seen["images"] > 0 or path == compared
        assert seen["chart"] >= 9, "labels of charts are too small to read"
        assert (seen["ground"] == "rgb(255, 255, 255)") == (scheme == "light")
        page.close()
    context.close()


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
