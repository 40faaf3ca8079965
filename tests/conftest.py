"""Fixtures of several test files: small generated image folders, a cache of their own, the real data where it is."""

import fcntl
import importlib
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawn_images import write_folder

ROOT = Path(__file__).resolve().parent.parent

# The tests compile the same few programs over and over: the second time they are read from here, in the processes of pytest-xdist and
# in those that a test starts as well.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.0"


@pytest.fixture(scope="session")
def make_folder():
    """`write_folder` as a fixture: make_folder(root, classes, per_class, size, patients, suffix) -> root."""
    return write_folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make) -> what make(directory) returns: one worker of pytest-xdist makes it, the others read it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make):
        place, kept = root / f"once-{name}", root / f"once-{name}.pickle"
        with open(root / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                kept.write_bytes(pickle.dumps(make(place)))
            return pickle.loads(kept.read_bytes())

    return made


@pytest.fixture(scope="session")
def cell_folder(made_once) -> Path:
    """Parasitized and Uninfected, 48 images each of 12 patients C1 ... C12, about 40x44 pixels. Read it only."""
    return made_once("cells", lambda place: write_folder(place / "cells", per_class=48))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache directory that the tests of a file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(cell_folder, cache):
    """training_tools.tiny(**overrides) on the cells."""
    from training_tools import tiny

    return lambda **overrides: tiny(cell_folder, cache, **overrides)


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs of a test that does not look at them have no pictures and an empty report: half of the time of a small run."""
    pages = importlib.import_module("cnnjax.pages")
    monkeypatch.setattr(pages, "save_figure", lambda figure, path, **options: path.touch())
    for name in ("history_figure", "network_figure"):
        monkeypatch.setattr(pages, name, lambda *numbers, **options: None)
    monkeypatch.setattr(pages, "write_report", lambda workdir: (Path(workdir) / "report.html").touch())


@pytest.fixture(scope="session")
def plain(cell_folder, made_once):
    """A finished run of three epochs on the cells: its `workdir`, `config` and `summary`. Read it only."""
    from training_tools import tiny

    def make(place):
        config = tiny(cell_folder, place / "cache", log__tensorboard=True)
        train = importlib.import_module("cnnjax.commands.train").train
        return SimpleNamespace(workdir=place / "run", config=config, summary=train(config, place / "run"))

    return made_once("plain", make)


@pytest.fixture(scope="module")
def browser():
    """A Chromium of playwright's; tests that need it are skipped where there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        camera = [
            f"--use-fake-{kind}-for-media-stream" for kind in ("device", "ui")
        ]  # a drawn picture, which nobody has to allow
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        yield running
        running.close()


@pytest.fixture
def isolated_cache(tmp_path) -> Path:
    """A cache directory that no other test sees."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real images are not there: {path}")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT
