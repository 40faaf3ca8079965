"""Evidence of evaluations: written beside them, computed anew, shown; without JAX, for two classes and more, for tiny sets."""

import json
import shutil
import time

import numpy as np
import pytest
from evidence_runs import write_run
from training_tools import child, one_line

from cnnjax import config as config_lib
from cnnjax import metrics, pages
from cnnjax.commands.evidence import evidence
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.evidence import Evidence, Table, evidence_of, read_evidence, writing
from cnnjax.inference import Run


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("images, groups", [(400, 40), (400, 0), (30, 2), (1, 0)])
def test_evidence_is_written_and_read_back(tmp_path, classes, images, groups):
    run = write_run(tmp_path / "run", classes=classes, images=images, groups=groups)
    made = evidence(run.path)["test"]
    again = read_evidence(run, "test")
    assert json.loads(run.evidence("test").read_text(), parse_constant=lambda name: pytest.fail(name)) == json.loads(
        json.dumps(made.to_dict())
    )
    assert again.metrics == made.metrics and again.per_class == made.per_class and again.checks == made.checks
    assert (made.groups, made.unit, made.images) == (groups or images, "group" if groups else "image", images)
    assert made.metrics["accuracy"].value == pytest.approx(run.read_evaluation("test")["accuracy"])
    assert (made.metrics["accuracy"].low is None) == (groups == 2)
    assert run.groups("test").exists() == bool(groups) == bool(made.groups_table) == bool(made.spread)
    assert pages.intervals_text("test", made).startswith("  test")
    if groups == 40:
        rows = [*run.read_rows(run.groups("test"))]
        assert (
            rows[0]
            == ["group", "images", "positives", "called_positive", "errors", "accuracy", "low", "high", "mean_p", "top5"]
            and len(rows) == 41
        )


def test_level_prevalence_and_resamples_are_those_asked_for(tmp_path):
    run = write_run(tmp_path / "run")
    wide = evidence(run.path)["test"]
    narrow = evidence(run.path, {"evidence.level": "0.8", "evidence.prevalence": "0.035", "evidence.bootstrap": "200"})[
        "test"
    ]
    assert narrow.level == 0.8 and wide.metrics["auc"].low < narrow.metrics["auc"].low
    assert "stated_ppv" in narrow.metrics and "stated_ppv" not in wide.metrics and not wide.bootstrap
    assert narrow.metrics["stated_ppv"].value < narrow.metrics["ppv"].value
    assert len(narrow.bootstrap["auc"]) == 2 and any("3.5 % =pos" in line for line in narrow.checks)
    assert "PPV at 3.5 %" in pages.intervals_text("test", narrow) and "with 80 % intervals" in pages.intervals_text(
        "test", narrow
    )


@pytest.mark.parametrize("overrides, words", [
    ({"train.epochs": 3}, "train.epochs changes nothing there"), ({"evidence.threshold": "youden"}, "use --mode=eval"),
    ({"evidence.level": 1.5}, "evidence.level=1.5: "), ({"evidence.levels": 0.9}, "unknown config key"),
])  # fmt: skip
def test_other_keys_are_refused_in_one_line(tmp_path, overrides, words):
    run = write_run(tmp_path / "run", images=20)
    with pytest.raises(ConfigError, match=words) as error:
        evidence(run.path, overrides)
    one_line(error)


def test_a_run_without_an_evaluation_and_a_damaged_file_are_one_line(tmp_path):
    run = write_run(tmp_path / "run", images=20)
    evidence(run.path)
    shutil.rmtree(run.checksums)
    run.evidence("test").write_text('{"level": "high"}')
    with pytest.raises(CheckpointError, match="write it anew with --mode=evidence") as error:
        read_evidence(run, "test")
    one_line(error)
    shutil.rmtree(run.evaluations)
    with pytest.raises(CheckpointError, match="has no evaluation; write one with --mode=eval"):
        evidence(run.path)


def test_the_program_computes_it_without_jax(tmp_path):
    run = write_run(tmp_path / "run", images=100)
    code = ("import sys; from cnnjax.cli import program; code = program.run(sys.argv); "
            "assert not {'jax', 'flax', 'grain', 'matplotlib', 'sklearn'} & sys.modules.keys(); sys.exit(code)")  # fmt: skip
    done = child(["-c", code, "--mode=evidence", f"--workdir={run}", "--config.evidence.level=0.9"])
    assert done.returncode == 0, done.stderr
    assert "test, with 90 % intervals" in done.stdout and "eval/NAME-evidence.json of test" in done.stdout


def test_a_training_leaves_intervals_of_every_split(plain):
    run = Run.open(plain.workdir)
    for split in ("train", "val", "test"):
        made = run.evidence(split)
        assert made.metrics["auc"].value == getattr(run, split)["auc"] and isinstance(run.test["auc"], float)
    assert plain.summary["intervals"]["test"] == json.loads(json.dumps(run.evidence("test").intervals))
    assert plain.summary["intervals"].keys() == {"val", "test"}
    with pytest.raises(CheckpointError, match="no evidence of nowhere; write it with --mode=evidence"):
        run.evidence("nowhere")


def test_many_images_of_many_groups_take_less_than_two_seconds():
    rng, n = np.random.default_rng(0), 27_558
    labels = rng.integers(0, 2, n)
    logits = rng.normal(size=(n, 2)) + 2 * np.eye(2)[labels]
    for names in ([f"P{i}" for i in rng.integers(0, 200, n)], [""] * n):
        table = Table(ids=range(n), groups=metrics.Groups.of(names), labels=labels, classes=("a", "b"), positive=1, logits=logits,
                      probabilities=metrics.probabilities(logits), predicted=logits.argmax(1))  # fmt: skip
        began = time.process_time()
        made = evidence_of(table, config_lib.Evidence(prevalence=0.035))
        assert time.process_time() - began < 2
        assert isinstance(made, Evidence) and made.groups == len(set(names) - {""} or names)


def test_a_table_that_is_too_large_to_hold_has_values_without_intervals(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", images=30)
    monkeypatch.setattr(writing, "MOST", 50)
    made = evidence(run.path)["test"]
    assert made.metrics["accuracy"].value == run.read_evaluation("test")["accuracy"] and made.metrics["accuracy"].low is None
    assert pages.intervals_text("test", made).startswith("  test: no intervals (30 images of 2 classes are too many)\n  ")
    assert pages.intervals_text("test", made, ["accuracy"]) == "  test: no intervals (30 images of 2 classes are too many)"


def test_a_prevalence_of_more_than_two_classes_is_said_to_have_no_effect(tmp_path):
    run = write_run(tmp_path / "run", classes=4)
    assert any(
        "no effect on more classes" in line for line in evidence(run.path, {"evidence.prevalence": 0.1})["test"].checks
    )
