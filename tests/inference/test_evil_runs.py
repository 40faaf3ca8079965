"""A run of a stranger: whatever its files say, opening it is safe, and ends in one line or in numbers."""

import copy
import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
from training_tools import one_line

import cnnjax
from cnnjax import inference, pages
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.commands.report import write_report
from cnnjax.errors import CheckpointError, ConfigError, DataError, UserError
from cnnjax.runs import RunDirectory

METADATA = "_CHECKPOINT_METADATA"
SMALL_FILES = [
    "config.json",
    "summary.json",
    "network.json",
    "calibration.json",
    "decision.json",
    "eval/test.json",
    "eval/val.json",
]
HUGE = 10**12


@pytest.fixture
def run(plain, tmp_path):
    """A copy of a finished run, without the checksums: a stranger makes those fit."""
    copied = Path(shutil.copytree(plain.workdir, tmp_path / "run"))
    shutil.rmtree(copied / "checksums")
    return copied


@pytest.fixture
def own(plain, monkeypatch, tmp_path):
    """Settings of this user: a cache, and a home that no test shares."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return {"data.cache_dir": plain.config.data.cache_dir}


def edit(path: Path, change) -> None:
    """Changes the tree of a JSON file."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def edit_metadata(run: Path, change) -> None:
    """Changes the metadata of every checkpoint."""
    for path in run.glob(f"checkpoints/*/{METADATA}"):
        edit(path, lambda tree: change(tree["custom_metadata"]))


def opened(run: Path, own, ways=("page", "network")) -> list[str]:
    """Opens a run: its page and its network; returns the line that each ends in, or ""."""
    found = []
    acts = {
        "page": lambda: pages.report_page(pages.read_record(RunDirectory(run))),
        "network": lambda: inference.restore(run, overrides=own),
    }
    for act in map(acts.get, ways):
        try:
            act()
            found.append("")
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            found.append(str(error))
    return found


def test_no_pickle_of_a_run_is_loaded(run, own, tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    evil = pickle.dumps(Evil())
    pickle.loads(evil)
    assert marker.exists()
    marker.unlink()
    for some in ("*", "eval/*", "checkpoints/*/*", "checkpoints/*/metrics/*", "checkpoints/*/model/**/*"):
        before = {path: path.read_bytes() for path in run.glob(some) if path.is_file()}
        for path in before:
            path.write_bytes(evil)
        assert any(opened(run, own))
        for path, content in before.items():
            path.write_bytes(content)
    for folder in run.glob("checkpoints/*/*/"):
        (folder / "checkpoint.pkl").write_bytes(evil)
    assert opened(run, own) == ["", ""]
    assert not marker.exists()


@pytest.mark.parametrize("key", ["model.name", "train.loss", "augment.custom"])
def test_code_that_a_run_names_is_run_only_where_it_is_trusted(run, own, tmp_path, key):
    marker, code = tmp_path / "executed", tmp_path / "evil.py"
    code.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\ndef Net(*a, **k): raise ValueError\n")
    section, _, leaf = key.partition(".")
    edit_metadata(run, lambda tree: tree["config"][section].update({leaf: f"{code}:Net"}))
    with pytest.raises(
        ConfigError, match=r"code of its own, .*evil.py:Net, which no run of yours has used.*add --trust_code"
    ) as error:
        inference.restore(run, overrides=own)
    one_line(error)
    with pytest.raises(ConfigError):
        predict(run, [str(tmp_path)], tmp_path / "out.csv")
    assert not marker.exists()


def test_a_stranger_s_run_decides_nothing_about_this_machine(run, own, plain, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    edit_metadata(run, lambda tree: tree["config"]["data"].update(cache_dir=str(elsewhere)))
    edit_metadata(run, lambda tree: tree["config"]["runtime"].update(workers=HUGE))
    restored = inference.restore(run, overrides=own)
    assert restored.config.data.cache_dir == own["data.cache_dir"] and restored.config.runtime.workers == 0
    assert inference.restore(run).config.data.cache_dir == "~/.cache/cnnjax"
    evaluate(run, "val", overrides=own)
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    "data, key, address",
    [({"path": "memory://bucket/x.zip"}, "data.path", "memory://bucket/x.zip"),
     ({"path": "", "url": "https://127.0.0.1:9/x.zip"}, "data.url", "https://127.0.0.1:9/x.zip"),
     ({"path": "", "source": "tfds", "tfds": "stranger:set"}, "data.tfds", "stranger:set")],
)  # fmt: skip
def test_an_address_that_a_run_names_is_not_fetched_for_it_alone(run, own, data, key, address):
    edit_metadata(run, lambda tree: tree["config"]["data"].update(data))
    with pytest.raises(DataError, match="is not fetched for a run alone") as error:
        evaluate(run, "val", overrides=own)
    assert one_line(error).endswith(f"--config.{key}={address}")


HUGE_VALUES = {
    "channels": lambda tree: tree["config"]["model"].update(channels=[HUGE, HUGE]),
    "dense": lambda tree: tree["config"]["model"].update(dense=[HUGE]),
    "image size": lambda tree: tree["config"]["image"].update(size=HUGE),
    "input size": lambda tree: tree["preprocessing"].update(size=HUGE),
    "width": lambda tree: tree["preprocessing"].update(width=HUGE),
    "batch": lambda tree: tree["config"]["data"].update(batch_size=HUGE),
    "classes": lambda tree: tree.update(classes=[f"class {i}" for i in range(100_000)]),
    "devices": lambda tree: tree["config"]["runtime"].update(devices=HUGE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE_VALUES)
def test_huge_sizes_in_a_checkpoint_are_refused_before_memory_is_taken(run, own, name):
    edit_metadata(run, HUGE_VALUES[name])
    page, network = opened(run, own)
    assert page == "" and network


@pytest.mark.slow
@pytest.mark.parametrize("file, change", [
    ("network.json", lambda tree: tree[0].update(shape=[HUGE, HUGE, HUGE])),
    ("network.json", lambda tree: tree[0].update(parameters=10**400)),
    ("summary.json", lambda tree: tree.update(parameters=10**400)),
    ("summary.json", lambda tree: tree.update(seconds=1e308, epochs=HUGE)),
    ("eval/test.json", lambda tree: tree.update(confusion=[[HUGE, HUGE], [HUGE, 10**300]])),
    ("config.json", lambda tree: tree["image"].update(size=HUGE)),
])  # fmt: skip
def test_huge_numbers_in_small_files_end_in_a_page_or_a_line(run, own, file, change):
    edit(run / file, change)
    opened(run, own)


def test_a_best_step_that_the_checkpoints_deny_is_an_error(run, own):
    other = next(
        path.name
        for path in run.glob("checkpoints/*")
        if path.name != str(json.loads((run / "summary.json").read_text())["best_step"])
    )
    edit(run / "summary.json", lambda tree: tree.update(best_step=int(other)))
    with pytest.raises(CheckpointError, match="one was changed; choose with --step=") as error:
        inference.restore(run, overrides=own)
    one_line(error)
    assert inference.restore(run, other, own).step == int(other)


VALUES = [None, "x", "", -1, 0, 1e308, 10**30, True, [], {}, [[]], ["x"], {"x": 1}, "\0", "é" * 1000]


def paths(tree, above=()):
    """The path of every value in a tree of JSON."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*above, key)
        yield from paths(value, (*above, key))


def replaced(tree, path, value):
    """A copy of a tree with another value at a path."""
    if not path:
        return value
    changed = copy.copy(tree)
    changed[path[0]] = replaced(tree[path[0]], path[1:], value)
    return changed


def wrong_types(run: Path, own, rng: random.Random, count: int) -> None:
    """Opens a run `count` times, each with one value of one of its JSON files replaced."""
    files = [*SMALL_FILES, *(path.relative_to(run).as_posix() for path in run.glob(f"checkpoints/*/{METADATA}")),
             *(path.relative_to(run).as_posix() for path in run.glob("checkpoints/*/metrics/metrics"))]  # fmt: skip
    for _ in range(count):
        path, value = run / rng.choice(files), rng.choice(VALUES)
        before = path.read_text()
        tree = json.loads(before)
        places = [*paths(tree), ()]
        if path.name == METADATA:
            places = [place for place in places if place[:1] == ("custom_metadata",)]
        place = rng.choice(places)
        path.write_text(json.dumps(replaced(tree, place, value)))
        try:
            opened(run, own, ["network" if "checkpoints" in path.parts else "page"])
        except Exception as error:
            raise AssertionError(f"{path.name} {place} = {value!r:.60}: {type(error).__name__}: {error}") from error
        path.write_text(before)


def test_wrong_types_end_in_a_page_or_a_line(run, own):
    wrong_types(run, own, random.Random(0), 6)


@pytest.mark.slow
def test_many_wrong_types_end_in_a_page_or_a_line(run, own):
    wrong_types(run, own, random.Random(1), 100)


def test_the_page_of_an_evil_run_is_written_where_it_is_asked_for_alone(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_report(run, tmp_path / "page.html")
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before and (tmp_path / "page.html").exists()
    assert cnnjax.load(run).classes == ("Parasitized", "Uninfected")
