"""Checksums of a run's small files, at every moment of a write; texts in tables that spreadsheets leave alone."""

import contextlib
import json
import os
import random
import re
import subprocess
from hashlib import sha256

import pytest
from training_tools import one_line

from cnnjax.errors import CheckpointError
from cnnjax.runs import History, RunDirectory
from cnnjax.runs.files import cell, read_rows, text_of_cell, write_rows


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def test_a_file_that_was_changed_is_refused_in_one_line_that_says_what_to_do(run):
    run.write_json(run.summary, {"a": 1})
    run.sealed.check(run.summary)
    run.summary.write_text(run.summary.read_text().replace("1", "2"))
    with pytest.raises(
        CheckpointError, match="is not as it was written; restore it, or take it as it is by removing"
    ) as error:
        run.read_json(run.summary)
    os.remove(one_line(error).rpartition("removing ")[2])
    assert run.read_json(run.summary) == {"a": 2}


def test_a_file_that_is_gone_is_told(run):
    run.write_rows(run.quarantine, ("id", "reason"), [])
    run.quarantine.unlink()
    with pytest.raises(CheckpointError, match="is missing; restore it, or go on without it by removing") as error:
        list(run.read_rows(run.quarantine))
    os.remove(one_line(error).rpartition("removing ")[2])
    assert list(run.read_rows(run.quarantine)) == []


def test_a_checksum_is_as_sha256sum_writes_it(run):
    run.write_json(run.evaluation("test"), [1, 2])
    subprocess.run(["sha256sum", "--check", "--strict", run.checksums / "eval+test.json.sha256"], cwd=run.path, check=True)


def crash_at(monkeypatch, moment):
    """Lets the process end instead of the rename of that number."""
    replaced, replace = [], os.replace

    def crash(*paths):
        replaced.append(paths)
        if len(replaced) == moment:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", crash)


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_crash_at_any_moment_of_a_write_leaves_a_file_that_fits(run, monkeypatch, moment):
    run.write_json(run.config, "old")
    crash_at(monkeypatch, moment)
    with pytest.raises(KeyboardInterrupt) if moment < 4 else contextlib.nullcontext():
        run.write_json(run.config, "new")
    monkeypatch.undo()
    assert run.read_json(run.config) == ("old" if moment < 3 else "new")
    run.write_json(run.config, "newer")
    assert run.read_json(run.config) == "newer"


def test_a_damaged_checksum_says_nothing_of_the_file(run):
    run.write_json(run.config, 1)
    seal = run.checksums / "config.json.sha256"
    for text in ("", "x", seal.read_text()[:70], seal.read_text().replace("config", "other"), "\0" * 80):
        seal.write_text(text)
        assert run.read_json(run.config) == 1
    seal.write_bytes(b"\xff\xfe")
    assert run.read_json(run.config) == 1


def test_only_the_beginning_of_a_file_that_grows_is_meant(run):
    run.metrics.write_text("one\ntwo\n")
    run.sealed.seal_beginning(run.metrics, sha256(b"one\n").hexdigest(), 4)
    run.sealed.check(run.metrics)
    for text in ("one", "ONE\ntwo\n", ""):
        run.metrics.write_text(text)
        with pytest.raises(CheckpointError):
            run.sealed.check(run.metrics)


BEHIND = ["a;=1+1;.png", "a\n=1+1", "x|@y", "x,-y", "a;'=1", "a;;-b"]  # of what separates the cells of some country
RISKY = ["\uff1d1+1", "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x"]


@pytest.mark.parametrize("text", BEHIND)
def test_a_formula_behind_a_separator_of_another_country_is_marked_too(text, tmp_path):
    assert not re.search(r"[;,\n|][=+@-]", cell(text)) and text_of_cell(cell(text)) == text


@pytest.mark.parametrize("seed", range(20))
def test_any_text_comes_back(seed):
    rng = random.Random(seed)
    for _ in range(500):
        text = "".join(rng.choice("'=+-@;,|\t\r\na1\uff1d") for _ in range(rng.randrange(9)))
        assert text_of_cell(cell(text)) == text


PLAIN = ["a=b", "-1", "+1.5e-3", "'quoted'", "", "'", "x-y", "C1"]


@pytest.mark.parametrize("text", RISKY)
def test_a_text_that_a_spreadsheet_would_compute_has_an_apostrophe_before_it(text, tmp_path):
    assert cell(text).startswith("'") and text_of_cell(cell(text)) == text
    write_rows(tmp_path / "t.csv", (text, "b"), [(text, -1.5), ("x", text)])
    assert list(read_rows(tmp_path / "t.csv")) == [[text, "b"], [text, "-1.5"], ["x", text]]


@pytest.mark.parametrize("text", PLAIN)
def test_every_other_text_is_as_it_is(text):
    assert cell(text) == text and text_of_cell(cell(text)) == text


def test_numbers_are_not_touched():
    assert cell(-0.5) == -0.5 and cell(None) is None


def logged(run, step, heard):
    """Opens the history of a run at a step, and returns the steps of its log."""
    History(run, step, warn=heard.append).close()
    return [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_crash_while_the_log_is_cut_back_leaves_one_that_fits(run, monkeypatch, moment):
    history, heard = History(run, 0), []
    for step in (1, 2, 3):
        history.log({"step": step})
    history.close()

    crash_at(monkeypatch, moment)
    with pytest.raises(KeyboardInterrupt):
        History(run, 2)
    monkeypatch.undo()
    assert logged(run, 2, heard) == [1, 2] and not heard


def test_a_history_that_was_changed_or_is_gone_is_set_aside_with_a_warning(run):
    history = History(run, 0)
    history.log({"step": 0})
    history.close()
    for damage in (lambda: run.metrics.write_text("x"), run.history.unlink, lambda: run.history.write_bytes(b"\xff")):
        heard = []
        damage()
        logged(run, 0, heard)
        assert len(heard) == 1 and heard[0].endswith("begins anew") and "\n" not in heard[0]
        heard.clear()
        logged(run, 0, heard)
        assert not heard
