"""Nothing reaches outside: names of remote listings, links in a run, and the code that writes at all."""

import ast
import shutil
from pathlib import Path

import fsspec
import pytest
from training_tools import one_line

import cnnjax
from cnnjax.commands.report import write_report
from cnnjax.errors import DataError, OutsideError, UserError
from cnnjax.inside import inside, leaves
from cnnjax.progress import Progress
from cnnjax.runs import Mirror, RunDirectory, fetch
from cnnjax.runs.places import Place, Places

PACKAGE = Path(cnnjax.__file__).parent
OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "\\\\host\\x", "..\\x", "C:/x", "a\0b", "", ".."]
PLACES = [name for name, place in vars(Places).items() if isinstance(place, Place)]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    assert leaves(name)
    with pytest.raises(OutsideError, match="leads out of") as error:
        inside(tmp_path, name)
    one_line(error)


@pytest.mark.parametrize("name", ["a", "a/b.png", "a..b/c", ".hidden", "...", "ü/ß", "a b"])
def test_a_name_that_stays_is_joined(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name


def test_links_inside_are_refused_and_the_directory_itself_may_be_one(tmp_path):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "sub" / "link").symlink_to("/etc/passwd")
    (tmp_path / "real" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "run", "sub/file") == tmp_path / "run" / "sub" / "file"
    for name in ("sub/link", "sub/link/x", "gone", "gone/x"):
        with pytest.raises(OutsideError, match="is a link"):
            inside(tmp_path / "run", name)


@pytest.mark.parametrize("place", PLACES)
def test_no_file_of_a_run_is_a_link(place, tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert getattr(run, place).parent == run.path
    run.path.mkdir()
    (run.path / getattr(RunDirectory, place).name).symlink_to(tmp_path)
    with pytest.raises(OutsideError):
        getattr(run, place)


@pytest.fixture
def far():
    """Keys of a memory file system, which may hold ".." as those of s3:// and gs:// may."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()

    def put(key, data=b"x"):
        fs.store[key] = fsspec.implementations.memory.MemoryFile(fs, key, data)

    yield put
    fs.store.clear()


@pytest.mark.parametrize("key", ["../../../../../OUTSIDE.txt", "../b/OUTSIDE.txt", "a/../../OUTSIDE.txt"])
@pytest.mark.parametrize("way", ["fetch", "pull"])
def test_a_listing_with_a_key_that_leads_out_copies_nothing(far, tmp_path, key, way):
    far("/1/2/3/4/5/data/a.png")
    far(f"/1/2/3/4/5/data/{key}", b"owned")
    cache = tmp_path / "home" / "me" / "cache"
    with pytest.raises(UserError, match="leads out of") as error:
        if way == "fetch":
            fetch("memory://1/2/3/4/5/data", cache, Progress())
        else:
            Mirror("memory://1/2/3/4/5/data", cache).pull()
    one_line(error)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_without_a_name_is_refused(tmp_path):
    from cnnjax.data import download

    (tmp_path / "cache").mkdir()
    for url in ("https://host/..", "https://host/a/", "https://host/a\0b"):
        with pytest.raises(DataError, match="ends in no name of a file"):
            download.fetch(url, "", tmp_path / "cache", Progress())


@pytest.fixture
def run(plain, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(plain.workdir, tmp_path / "run"))


def test_a_page_embeds_no_file_from_elsewhere(run, tmp_path):
    (tmp_path / "secret").write_bytes(b"\x89PNG secret of this machine")
    picture = next((run / "eval" / "test-images").iterdir())
    picture.unlink()
    picture.symlink_to(tmp_path / "secret")
    with pytest.raises(OutsideError, match="is a link"):
        write_report(run)
    picture.unlink()
    shutil.rmtree(run / "checksums")  # a stranger's run has what a stranger wants
    told = run / "eval" / "test.json"
    for name in ("../../secret", str(tmp_path / "secret")):
        told.write_text(told.read_text().replace(f'"test-images/{picture.name}"', f'"{name}"'))
        with pytest.raises(OutsideError, match="leads out of"):
            write_report(run)
        told.write_text(told.read_text().replace(f'"{name}"', f'"test-images/{picture.name}"'))


def test_evaluation_neither_writes_nor_deletes_through_a_link(run, plain, tmp_path):
    other = tmp_path / "other" / "test-images"
    other.mkdir(parents=True)
    (other / "mine.png").write_text("mine")
    shutil.rmtree(run / "eval")
    (run / "eval").symlink_to(tmp_path / "other")
    with pytest.raises(OutsideError, match="is a link"):
        cnnjax.evaluate(run, overrides={"data.cache_dir": plain.config.data.cache_dir})
    assert [path.name for path in (tmp_path / "other").rglob("*")] == ["test-images", "mine.png"]


# Files of the package that write or delete, each with what keeps it in its place.
WRITERS = {
    "runs/files.py": "a file is replaced by a hidden one beside it, which is new",
    "runs/sealed.py": "joins names by `inside`",
    "commands/report.py": "the card, a place of the run directory, or a file that the caller names",
    "runs/looks.py": "a place of the run directory",
    "runs/exclusive.py": "the lock of a run; folders that were made for work that failed",
    "runs/directory.py": "its places are joined by `inside`",
    "runs/history.py": "two places of the run directory",
    "runs/remote.py": "joins listed names by `inside`",
    "checkpoints/seals.py": "steps below a place of the run directory",
    "checkpoints/store.py": "steps below a place of the run directory, joined by `inside`",
    "inference/thumbnails.py": "its own names below a place of the run directory",
    "inference/overlays.py": "its own names below a place of the run directory, or below the folder that the caller names",
    "export/published.py": "a file that the caller names",
    "export/stablehlo.py": "a file that the caller names",
    "export/litert.py": "a file that the caller names",
    "export/web.py": "a file that the caller names; two names below the cache",
    "runs/tables.py": "a file that the caller names",
    "pages/figures.py": "a file that the caller names",
    "pages/blocks.py": "a file that the caller names",
    "data/cache.py": "below the cache, by a digest",
    "data/encoded.py": "an empty folder below the cache",
    "data/features.py": "below the cache, by a digest",
    "data/download.py": "below the cache, joined by `inside`",
    "data/tfds.py": "members of an archive, joined by `inside`",
    "config/trust.py": "below the cache, by a digest",
}
METHODS = {"write_text", "write_bytes", "unlink", "rmdir", "mkdir", "rename", "touch", "symlink_to", "hardlink_to", "chmod"}
FUNCTIONS = {"rmtree", "move", "copy", "copyfile", "copytree", "copyfileobj", "remove", "rename", "replace", "makedirs", "mkdtemp",
             "unlink", "extractall", "extract"}  # fmt: skip


def writes(source: str) -> list[str]:
    """The calls of a module that write or delete files."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        mode = "".join(
            str(a.value)
            for a in [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            if isinstance(a, ast.Constant)
        )
        if name in METHODS and owner != "self":
            found.append(name)
        elif name in FUNCTIONS and owner in ("os", "shutil", "tempfile", "archive", "tar", "zip"):
            found.append(f"{owner}.{name}")
        elif name == "open" and set(mode) & set("wax+") and owner != "os" and len(mode) <= 3:
            found.append("open")
    return found


@pytest.mark.parametrize("code", ["p.write_text(x)", "shutil.rmtree(d)", "open(p, 'wb')", "p.open('a')", "os.replace(a, b)",
                                  "tar.extractall(d)", "open(p, mode='x')"])  # fmt: skip
def test_code_that_writes_is_found(code):
    assert writes(code)


def test_no_other_code_writes_or_deletes():
    found = {path.relative_to(PACKAGE).as_posix(): writes(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {name for name, calls in found.items() if calls} <= WRITERS.keys(), {
        n: c for n, c in found.items() if c and n not in WRITERS
    }
    assert not {name for name in WRITERS if not found[name]}, "no longer writes"
