"""Intervals, patients and confused classes on the page of a run, from its files alone."""

import shutil

import pytest
from evidence_runs import write_run
from page_tools import text
from training_tools import one_line

import cnnjax
from cnnjax.commands.evidence import evidence
from cnnjax.errors import CheckpointError
from cnnjax.metrics import interval_text


def test_numbers_of_two_classes_carry_their_intervals(tmp_path):
    run = write_run(tmp_path / "run")
    made = evidence(run.path, {"evidence.prevalence": 0.035, "evidence.bootstrap": 100})["test"]
    words = text(cnnjax.write_report(run.path))
    for name in ("accuracy", "auc", "sensitivity"):
        score = made.metrics[name]
        assert (
            f"{score.value:.3f} {interval_text(score)} test" in words
            and f"{score.value:.4f} {interval_text(score)}" in words
        )
    assert "95 % interval" in words and "PPV at 3.5 %" in words and "Intervals from drawing groups again" in words
    worst = [*run.read_rows(run.groups("test"))][1]
    assert f"{worst[0]} {worst[1]} {worst[4]}" in words and "Half of the 40 groups" in words


def test_several_classes_have_curves_and_confused_pairs(tmp_path):
    run = write_run(tmp_path / "run", classes=4)
    made = evidence(run.path)["test"]
    words = text(cnnjax.write_report(run.path))
    assert "ROC of each class against all others" in words and f"mean, AUC {made.metrics['macro_auc'].value:.4f}" in words
    result = run.read_evaluation("test")
    pairs = {
        (result["confusion"][i][j], a, b)
        for i, a in enumerate(result["classes"])
        for j, b in enumerate(result["classes"])
        if i != j
    }
    count, true, called = max(pairs)
    assert f"of the class {true} {called} {count}" in words


def test_a_run_without_groups_or_with_few_has_a_page_too(tmp_path):
    for name, changed in {
        "none": {"groups": 0},
        "few": {"groups": 3, "images": 40},
        "one": {"groups": 0, "images": 1, "classes": 3},
    }.items():
        run = write_run(tmp_path / name, **changed)
        evidence(run.path)
        words = text(cnnjax.write_report(run.path))
        assert ("too few for an interval" in words) == (name != "none") and ("Half of the" in words) == (name == "few")


def test_an_evaluation_of_an_older_version_has_a_page_without_intervals(tmp_path):
    words = text(cnnjax.write_report(write_run(tmp_path / "run").path))
    assert "How sure" not in words and "Test in detail" in words


def test_a_strange_table_of_groups_is_one_line(tmp_path):
    run = write_run(tmp_path / "run")
    evidence(run.path)
    shutil.rmtree(run.checksums)
    run.groups("test").write_text("group,images\nP1,many\n")
    with pytest.raises(CheckpointError, match="is damaged .*--mode=evidence") as error:
        cnnjax.write_report(run.path)
    one_line(error)


def test_compared_runs_show_intervals(tmp_path):
    made = [evidence(write_run(tmp_path / name, seed=seed).path)["test"] for seed, name in enumerate(("a", "b"))]
    words = text(cnnjax.compare_runs([tmp_path / "a", tmp_path / "b"]))
    assert all(f"({interval_text(one.metrics['auc'])})" in words for one in made)
