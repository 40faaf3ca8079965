"""The fuzzers find what is planted, a few inputs of each are tried always, and with `-m slow` as many as fit into a fixed time."""

import random
from pathlib import Path

import numpy as np
import pytest
from fuzz import archives, configs, findings, pictures, pixels, run, runs
from fuzz.findings import Finding

from cnnjax import config as config_lib
from cnnjax.data import images, listings
from cnnjax.data import pixels as pixels_lib
from cnnjax.errors import DataError

SECONDS = {"pixels": 8, "pictures": 8, "archives": 6, "configs": 8}
DAMAGES = 40  # of runs
compiled = pytest.mark.skipif(not pixels_lib.available(), reason="cnnjax.data.pixels is not compiled")


@pytest.fixture
def attempts(tmp_path):
    """attempts(module, count, seed=0) tries the first inputs of a fuzzer; returns the kinds of its findings."""

    def tried(module, count, seed=0):
        kinds, name = [], module.__name__.rpartition(".")[2]
        for number in range(seed, seed + count):
            folder = tmp_path / f"{name}-{number}"
            folder.mkdir()
            try:
                module.attempt(random.Random(f"{name} {number}"), folder)
            except Finding as finding:
                kinds.append(finding.kind)
            assert any(folder.iterdir()) or module is archives
        return kinds

    return tried


@pytest.fixture
def small(monkeypatch):
    """Few pictures, and few settings at a time."""
    monkeypatch.setattr(configs, "EXAMPLES", 3)
    seeds = {name: pictures.seeds()[name] for name in ("PNG rgb", "PNG clear", "JPEG plain", "GIF key", "TIFF raw")}
    monkeypatch.setattr(pictures, "seeds", lambda: seeds)


@pytest.mark.parametrize(
    ("module", "count"), [(pictures, 40), pytest.param(pixels, 40, marks=compiled), (archives, 40), (configs, 2)]
)
def test_a_few_inputs_are_read_or_refused(module, count, attempts, small):
    assert attempts(module, count) == []


def test_undamaged_seeds_are_read(tmp_path):
    assert [name for name, data in pictures.seeds().items() if not pictures.examine(data, (8, 9), "pad", (0.0, 255.0))] == []
    for number, data in enumerate(archives.seeds()):
        (tmp_path / str(number)).write_bytes(data)
        assert archives.examine(tmp_path / str(number)) >= 4 or data == archives.sparse()
    if pixels_lib.available():
        assert pixels.check_files(list(pixels.seeds())) == len(pixels.seeds())


# A planted bug of each kind is found.


@compiled
def test_a_wrong_pixel_of_a_decoder_is_found(monkeypatch, attempts):
    decode = pixels_lib.decode

    def wrong(files, *most):
        return [pixels if pixels is None else pixels ^ np.uint8(1) for pixels in decode(files, *most)]

    monkeypatch.setattr(pixels_lib, "decode", wrong)
    assert "other pixels than Pillow's" in attempts(pixels, 20)


@compiled
def test_a_resize_that_writes_too_much_is_found(monkeypatch):
    resize = pixels_lib.resize

    def wrong(source, out):
        resize(source, out)
        np.lib.stride_tricks.as_strided(out, (out.shape[0] + 1, *out.shape[1:]), out.strides)[-1] = 0

    monkeypatch.setattr(pixels_lib, "resize", wrong)
    with pytest.raises(Finding, match="writes beside its result"):
        pixels.check_resize(np.random.default_rng(0), 4, 5, 3, 6)


def test_an_error_of_another_type_is_found_in_pictures(monkeypatch, attempts, small):
    monkeypatch.setattr(images, "_open", lambda data, levels: {}["width"])
    assert any("KeyError" in kind for kind in attempts(pictures, 20))


def test_a_picture_that_takes_too_long_or_too_much_memory_is_found(monkeypatch):
    with pytest.raises(Finding, match="slow"), findings.bounded(0.01):
        sum(range(2_000_000))
    if Path("/proc/self/clear_refs").exists():
        with pytest.raises(Finding, match="memory"), findings.bounded(60, 2**24):
            np.ones(2**28, np.uint8)


def test_a_name_that_leaves_an_archive_is_found(monkeypatch, attempts):
    monkeypatch.setattr(listings, "leaves", lambda name: False)
    assert "a name leaves the archive" in attempts(archives, 20)
    assert archives.leaves("a/../../b") and archives.leaves("C:b") and not archives.leaves("a/..b/c")


def test_a_setting_that_is_not_refused_is_found(monkeypatch, attempts, small):
    monkeypatch.setattr(config_lib.records, "finish", lambda config, given=(): {}["train"])
    kinds = attempts(configs, 6)
    assert "KeyError in config/records.py:from_dict" in " ".join(kinds) or "accepted, then KeyError" in " ".join(kinds)


@pytest.fixture
def answering(tmp_path):
    """answering(verb) is the judgement of a run whose only verb answers so; a kind, or ""."""

    def judged(verb):
        verb.__name__ = "asked"
        trained = runs.Trained(tmp_path, tmp_path, None, (verb,), {"asked": {"accuracy": "0.5"}}, {"small"})
        try:
            runs.judge(trained, verb, tmp_path, "kind")
        except Finding as finding:
            return finding.kind
        return ""

    return judged


def test_runs_are_judged(answering):
    def refuses(text):
        raise DataError(text)

    def warns(progress, text, answer):
        progress.warn(text)
        return answer

    assert answering(lambda trained, workdir, progress: {"accuracy": "0.5"}) == ""
    assert answering(lambda trained, workdir, progress: refuses("one line")) == ""
    assert answering(lambda trained, workdir, progress: warns(progress, "damaged", {})) == ""
    assert "without a warning" in answering(lambda trained, workdir, progress: warns(progress, "small", {}))
    assert "another answer" in answering(lambda trained, workdir, progress: {"accuracy": "0.6"})
    assert "several lines" in answering(lambda trained, workdir, progress: refuses("two\nlines"))
    assert "KeyError" in answering(lambda trained, workdir, progress: {}["step"])


@pytest.mark.parametrize("kind", [runs.bits, runs.bytes_, runs.shorter, runs.none, runs.gone, runs.exchanged, runs.digit, runs.line_lost,
                                  runs.line_twice, runs.value], ids=lambda kind: kind.__name__)  # fmt: skip
def test_each_damage_changes_a_file(kind, tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2],\n "b": {"c": 3}}\n')
    (tmp_path / "b.json").write_text('{"a": 9}\n')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kind(random.Random(1), tmp_path / "a.json", [tmp_path / "b.json"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} != before


# With time.


@pytest.mark.slow
@pytest.mark.parametrize("name", SECONDS)
def test_nothing_is_found_within_a_fixed_time(name, tmp_path):
    turn = run.take_turn(name, 0, SECONDS[name], tmp_path)
    if turn.skipped:
        pytest.skip(turn.skipped)
    check(turn, tmp_path)
    assert turn.tried  # how many is the machine's affair


@pytest.mark.slow
def test_a_damaged_run_refuses_warns_or_answers_as_before(tmp_path):
    turn = run.take_turn("runs", 0, 1200, tmp_path, DAMAGES)
    check(turn, tmp_path)
    assert turn.tried == DAMAGES


def check(turn: run.Turn, out: Path) -> None:
    """Fails with the reasons of what was found."""
    reasons = "\n".join(path.read_text()[:600] for path in sorted(out.glob("*/reason.txt")))
    assert not turn.kinds, f"{turn.tried} inputs: {dict(turn.kinds)}\n{reasons}"


@pytest.mark.slow
def test_a_planted_bug_of_the_c_code_ends_its_process_and_its_input_is_saved(tmp_path, monkeypatch):
    line = "  pixels::resize(source,"  # in the function that Python calls
    (file,) = [path for path in Path(pixels_lib.__file__).parent.glob("*.cc") if line in path.read_text()]
    environment = pixels.environment(change=(file.name, line, f"  if (source[stride * height] == 255) return 7;\n{line}"))
    monkeypatch.setattr(pixels, "environment", lambda: environment)
    turn = run.take_turn("pixels", 0, 30, tmp_path, 30)
    assert any("AddressSanitizer" in kind for kind in turn.kinds), turn
    saved = sorted(tmp_path.iterdir())
    assert len(saved) <= run.SAVED * len(turn.kinds) and (saved[0] / "0.png").exists()
    assert "--only=pixels --seed=" in (saved[0] / "reason.txt").read_text()
