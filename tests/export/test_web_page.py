"""The page that classifies in a browser: opened as a file in Chromium, without a server and without a network."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from training_tools import one_line

import cnnjax
from cnnjax import data
from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.export import Card, find_runtime, web
from cnnjax.export.drawn import jpeg_picture
from cnnjax.runs import RunDirectory


@pytest.fixture(scope="module")
def runtime(made_once):
    """The folder of ONNX Runtime Web, as npm fetches it."""
    try:
        return made_once("ort", lambda place: find_runtime("", place))
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def opened(plain, runtime, browser, tmp_path_factory):
    """The page of a run in Chromium, and the names of the pages that it asked a network for."""
    path = tmp_path_factory.mktemp("web") / "cells.html"
    cells = cnnjax.load(plain.workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnjax.inference.exporting.find_runtime", lambda given, cache: runtime)
        assert cells.export(path) < 1e-5
    page = browser.new_page(viewport={"width": 360, "height": 740})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("#state[data-apart], #state[data-error]", timeout=60_000)
    yield page, cells, asked, errors
    page.close()


@pytest.mark.slow
def test_the_page_checks_itself_and_asks_no_network(opened):
    page, cells, asked, errors = opened
    assert float(page.get_attribute("#state", "data-apart")) < 1e-5
    assert set(asked) <= {"file", "blob", "data"} and errors == []
    assert page.title() == ", ".join(cells.classes) and "test" in page.inner_text("#card")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.is_visible("#shoot") and not page.is_visible("#video")


@pytest.mark.slow
def test_pictures_have_predicts_probabilities(opened, plain, tmp_path):
    page, cells, _, _ = opened
    paths = []
    for source in sorted(RunDirectory(plain.workdir).thumbnails("test").glob("*"))[:6]:
        Image.open(source).convert("RGB").save(path := tmp_path / f"{source.stem}.png")
        paths.append(str(path))
    clear = np.zeros((30, 20, 4), np.uint8)
    clear[5:20, 4:9] = (200, 30, 60, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    paths.append(str(tmp_path / "clear.png"))
    page.set_input_files("#files", paths)
    page.wait_for_selector(f"article[data-probabilities] >> nth={len(paths) - 1}")
    shown = {article.query_selector("img") and article.inner_text().split("\n")[0]: json.loads(article.get_attribute("data-probabilities"))
             for article in page.query_selector_all("article")}  # fmt: skip
    for wanted in cells.predict(paths):
        name = wanted.path.rpartition("/")[2]
        text, found = next((text, p) for text, p in shown.items() if name in text)
        np.testing.assert_allclose(found, list(wanted.probabilities.values()), atol=1e-4)
        assert text.startswith(wanted.predicted)
    page.set_input_files("#files", {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("article[data-error]")
    assert "no.png cannot be read" in page.inner_text("article[data-error]")
    assert not page.query_selector_all("article[data-error] img")


@pytest.mark.slow
def test_the_page_says_how_its_browser_decodes_jpeg_files(opened):
    page, *_ = opened
    file, pixels = jpeg_picture()
    found = page.evaluate("async bytes => Array.from((await decoded(new Blob([Uint8Array.from(bytes)])))[0])", list(file))
    levels = np.abs(np.array(found) - pixels.reshape(-1).astype(int))
    said = page.inner_text("#jpeg")
    assert page.get_attribute("#jpeg", "data-most") == str(levels.max()) and levels.mean() < 1
    assert (f"{levels.max()} of 255 levels at most, by {levels.mean():.2f} on average" in said) == bool(levels.max())


@pytest.mark.slow
def test_a_picture_of_the_camera_is_classified_and_the_camera_stops(opened):
    page, cells, _, errors = opened
    page.click("#camera")
    page.wait_for_selector("#shoot", state="visible")
    page.click("#shoot")
    page.wait_for_selector("article[data-probabilities] small:has-text('camera')")
    assert page.inner_text("article >> nth=0").startswith(cells.classes)
    page.click("#camera")
    assert (
        not page.is_visible("#video")
        and page.evaluate("document.getElementById('video').srcObject") is None
        and errors == []
    )


@pytest.mark.slow
def test_the_resize_is_that_of_training_to_the_bit(opened):
    page, cells, _, _ = opened
    rng = np.random.default_rng(0)
    for method in ("bilinear", "bicubic", "nearest", "pad"):
        for shape in ((37, 90), (16, 9), (5, 4), (16, 16)):
            image = rng.integers(0, 256, (*shape, 3), np.uint8)
            found = page.evaluate(
                "([pixels, h, w, method]) => { how.resize = method; return Array.from(resized(Uint8Array.from(pixels), h, w)) }",
                [image.reshape(-1).tolist(), *shape, method],
            )
            wanted = data.resize(image, cells.preprocessing.shape, method)
            assert found == wanted.reshape(-1).tolist(), (method, shape)
    page.evaluate("how.resize = 'bilinear'")


def test_names_of_classes_are_no_markup_in_the_page(tmp_path):
    for name in (web.LIBRARY, web.PROGRAM):
        (tmp_path / name).write_bytes(b"code")
    evil = "</script><script>alert(1)</script>"
    card = Card(classes=(evil, "b"), preprocessing=Preprocessing(size=8, resize="bilinear").to_dict())
    (tmp_path / "a.html").write_bytes(b"graph")
    web.wrap(tmp_path / "a.html", card, tmp_path, np.full((16, 2), 0.5))
    page = (tmp_path / "a.html").read_text()
    assert "alert(1)" in page and page.count("<script") == page.count("</script") == 2 and "@@" not in page


def test_a_runtime_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match="--ort=.* has no ort.wasm.bundle.min.mjs .*; name the folder dist of npm's"
    ) as error:
        find_runtime(str(tmp_path), tmp_path)
    one_line(error)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ConfigError, match="npm, which fetches it, is not installed; get it where there is a network"
    ) as error:
        find_runtime("", tmp_path)
    one_line(error)
    (tmp_path / "node_modules" / "onnxruntime-web" / "dist").mkdir(parents=True)
    for name in (web.LIBRARY, web.PROGRAM):
        (tmp_path / "node_modules" / "onnxruntime-web" / "dist" / name).touch()
    assert find_runtime(str(tmp_path), tmp_path).name == "dist"


def test_npm_fills_the_cache_once(tmp_path, monkeypatch):
    calls = []

    def npm(command, cwd, **options):
        calls.append(command)
        with tarfile.open(f"{cwd}/onnxruntime-web.tgz", "w:gz") as archive:
            for name in (web.LIBRARY, web.PROGRAM, "../../evil"):
                (tmp_path / "member").write_text(name)
                archive.add(tmp_path / "member", f"package/dist/{name}")

    monkeypatch.setattr(shutil, "which", lambda name: "npm")
    monkeypatch.setattr(web.subprocess, "run", npm)
    for _ in range(2):
        folder = find_runtime("", tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == sorted((web.LIBRARY, web.PROGRAM))
    assert (folder / web.LIBRARY).read_text() == web.LIBRARY and len(calls) == 1
