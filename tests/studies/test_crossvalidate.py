"""Cross-validation from the first fold to the page: in one go, stopped, in separate jobs, and used as one classifier."""

import csv
import importlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from training_tools import Said, one_line, read_rows

import cnnjax
from cnnjax.commands.compare import compare_runs
from cnnjax.commands.predict import predict
from cnnjax.errors import CheckpointError, ConfigError, DataError, Stopped
from cnnjax.runs import RunDirectory


@pytest.fixture(autouse=True)
def quick(without_pictures):
    """No page of a fold."""


@pytest.fixture(scope="module")
def done(cell_folder, cache, tmp_path_factory):
    """Three folds of one epoch in one go: `workdir`, `config`, `found`, and what was said. Read it only."""
    from training_tools import tiny

    config, workdir, said = (
        tiny(cell_folder, cache, split__folds=3, train__epochs=1),
        tmp_path_factory.mktemp("cv") / "whole",
        Said(),
    )
    with pytest.MonkeyPatch.context() as patch:
        pages = importlib.import_module("cnnjax.pages")
        patch.setattr(pages, "save_figure", lambda figure, path, **options: path.touch())
        patch.setattr(pages, "write_report", lambda workdir: None)
        found = cnnjax.crossvalidate(config, workdir, progress=said)
    return SimpleNamespace(config=config, workdir=workdir, found=found, said=said.lines)


def test_every_image_is_judged_once_by_a_network_that_has_not_seen_its_group(done):
    rows = read_rows(done.workdir / "eval" / "oof.csv")
    assert len({row["id"] for row in rows}) == len(rows) == 96
    folds = {row["id"]: row["fold"] for row in read_rows(done.workdir / "folds.csv")}
    assert all(row["fold"] == folds[row["id"]] and row["repeat"] == "0" for row in rows)
    assert list(rows[0])[:4] == ["id", "group", "label", "predicted"] and list(rows[0])[-2:] == ["repeat", "fold"]
    for k in range(3):
        splits = read_rows(done.workdir / "folds" / f"r0k{k}" / "splits.csv")
        seen = {row["group"] for row in splits if row["split"] != "test"}
        assert not seen & {row["group"] for row in rows if row["fold"] == str(k)}
        own = {row["id"]: row for row in read_rows(done.workdir / "folds" / f"r0k{k}" / "eval" / "test.csv")}
        assert all(row.items() >= own[row["id"]].items() for row in rows if row["fold"] == str(k))


def test_two_cross_validations_are_compared_in_pairs_image_by_image(done, tmp_path):
    other, rows = tmp_path / "better", read_rows(done.workdir / "eval" / "oof.csv")
    shutil.copytree(done.workdir, other)
    run, wrong = RunDirectory(other), {row["id"] for row in rows if row["predicted"] != row["label"]}
    names = [name for name in rows[0] if name.startswith("p_")]
    assert 6 < len(wrong) < 90
    with run.sealed.replacing(run.predictions("oof")) as path, open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        for row in rows:
            values = dict(zip(names, (row[name] for name in reversed(names)), strict=True))
            table.writerow({**row, "predicted": row["label"], **(values if row["id"] in wrong else {})})
    said = Said()
    page = compare_runs([done.workdir, other], tmp_path / "page.html", said)
    (line,) = said.lines
    assert (
        line.startswith(f"better is better than whole by {len(wrong) / 96:.4f} in accuracy")
        and "sign flips of groups" in line
    )
    (pair,) = json.loads((tmp_path / "page.json").read_text())["pairs"]
    assert pair["gained"] == len(wrong) and pair["lost"] == 0 and "auc" not in pair["metrics"]
    assert "Of all folds" in page.read_text() and "96 out-of-fold images" in page.read_text()
    with pytest.raises(CheckpointError, match="is a cross-validation, not one run"):
        compare_runs([done.workdir, other / "folds" / "r0k0"], tmp_path / "mixed.html")


def test_the_numbers_are_those_of_the_files(done):
    found = done.found
    assert json.loads((done.workdir / "crossvalidation.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    rows = read_rows(done.workdir / "eval" / "oof.csv")
    assert found.scores["accuracy"].value == pytest.approx(np.mean([row["label"] == row["predicted"] for row in rows]))
    own = [json.loads((done.workdir / "folds" / row.name / "eval" / "test.json").read_text()) for row in found.rows]
    for name in ("accuracy", "auc", "sensitivity", "loss"):
        assert [row.numbers[name] for row in found.rows] == pytest.approx([numbers[name] for numbers in own])
    assert found.scores["auc"].value == pytest.approx(np.mean([numbers["auc"] for numbers in own]))
    assert found.spread["accuracy"] == pytest.approx(np.std([numbers["accuracy"] for numbers in own], ddof=1))
    assert (found.images, found.groups, found.folds, found.repeats) == (96, 12, 3, 1)
    assert "covers about 90 %: the training set's own chance is not in it" in found.notes[0]


def test_what_all_folds_share_is_said_once(done):
    for text in ("the whole groups are divided into 3 folds", "2,489 parameters"):
        assert len([line for line in done.said if text in line]) == 1, text
    assert len([line for line in done.said if line.startswith("   epoch")]) == 3
    assert any(line.endswith("r0k2, 3 of 3: test 32 images of 4 groups") for line in done.said)


def test_the_page_is_of_the_files_and_is_written_again(done, tmp_path):
    page = cnnjax.write_report(done.workdir, tmp_path / "again.html").read_text()
    assert page == (done.workdir / "report.html").read_text()
    for text in (
        "Cross-validation of image classification",
        "r0k1",
        f"{done.found.scores['accuracy'].value:.4f}",
        "about 90 %",
    ):
        assert text in page


def test_the_same_call_again_trains_nothing(done):
    said = Said()
    assert cnnjax.crossvalidate(done.config, done.workdir, progress=said) == done.found
    assert said.lines == []


def test_jobs_of_one_fold_of_which_one_is_stopped_give_the_same_bytes(done, tmp_path):
    workdir, polled = tmp_path / "jobs", iter(range(10**6))
    assert cnnjax.crossvalidate(done.config, workdir, fold=2) is None
    with pytest.raises(Stopped):
        cnnjax.crossvalidate(done.config, workdir, fold=0, stop=lambda: next(polled) > 2)
    assert json.loads((workdir / "folds" / "r0k0" / "summary.json").read_text())["stopped"] == "signal"
    said = Said()
    assert cnnjax.crossvalidate(done.config, workdir, fold=0, progress=said) is None
    assert said.lines[-1].endswith("2 folds of 3 done; still to be trained: 1")
    found = cnnjax.crossvalidate(done.config, workdir)
    assert found == done.found
    for name in ("folds.csv", "eval/oof.csv", "crossvalidation.json"):
        assert (workdir / name).read_bytes() == (done.workdir / name).read_bytes(), name


def test_more_repeats_are_added_and_have_the_interval_of_a_new_training(done, tmp_path):
    workdir = shutil.copytree(done.workdir, tmp_path / "more")
    config = cnnjax.config.from_dict(done.config.to_dict(), {"split.repeats": 2})
    found = cnnjax.crossvalidate(config, workdir)
    assert [row.name for row in found.rows] == ["r0k0", "r0k1", "r0k2", "r1k0", "r1k1", "r1k2"]
    assert found.rows[:3] == done.found.rows
    values = [row.numbers["accuracy"] for row in found.rows]
    score = found.scores["accuracy"]
    assert score.value == pytest.approx(np.mean(values)) and score.df == 5
    assert score.se == pytest.approx(np.std(values, ddof=1) * np.sqrt(1 / 6 + 1))  # one fold is trained on, one is tested
    rows = read_rows(workdir / "eval" / "oof.csv")
    assert len(rows) == 192 and len({(row["id"], row["repeat"]) for row in rows}) == 192


def test_the_networks_together_give_the_mean_of_their_probabilities(done, cell_folder, tmp_path):
    files = sorted(cell_folder.glob("*/*.png"))[:5]
    whole = cnnjax.load(done.workdir)
    single = [cnnjax.load(done.workdir / "folds" / f"r0k{k}") for k in range(3)]
    mean = np.mean([[list(p.probabilities.values()) for p in one.predict(files)] for one in single], axis=0)
    together = whole.predict([*files, tmp_path / "none.png"])
    assert np.array([list(p.probabilities.values()) for p in together[:5]]) == pytest.approx(mean, abs=1e-12)
    assert [p.predicted for p in together[:5]] == [whole.classes[i] for i in mean.argmax(1)] and together[5].error
    images = np.zeros((3, 16, 16, 3), np.uint8)
    assert whole.predict_proba(images) == pytest.approx(np.mean([one.predict_proba(images) for one in single], axis=0))
    assert predict(done.workdir, [str(cell_folder)], tmp_path / "p.csv") == (96, 0)
    for use in (lambda: whole.params, lambda: whole.apply({}, images)):
        with pytest.raises(DataError, match=r"use .*\.members\[0\]") as error:
            use()
        one_line(error)


def test_networks_that_read_files_in_different_ways_decode_for_themselves(done, cell_folder):
    whole, files = cnnjax.load(done.workdir), sorted(cell_folder.glob("*/*.png"))[:70]
    wanted = np.array([[*p.probabilities.values()] for p in whole.predict(files)])
    other = whole.members[1]
    other.preprocessing = cnnjax.config.Preprocessing.from_dict({**other.preprocessing.to_dict(), "range": (0.0, 4095.0)})
    assert np.array([[*p.probabilities.values()] for p in whole.predict(files)]) == pytest.approx(
        wanted
    )  # of files of 8 bits


def test_wrong_uses_are_one_line(done, make, tmp_path):
    one = done.workdir / "folds" / "r0k0"
    uses = [
        (lambda: cnnjax.crossvalidate(done.config, done.workdir, fold=3), ConfigError, r"--fold=3: there are 3 networks .*; use 0 to 2$"),
        (lambda: cnnjax.crossvalidate(done.config, one), CheckpointError, "holds a run, not a cross-validation; use another --workdir"),
        (lambda: cnnjax.crossvalidate(make(split__folds=3, train__epochs=1, model__dense=(8,)), done.workdir), CheckpointError, "another config"),
        (lambda: cnnjax.train(done.config, done.workdir), CheckpointError, "is a cross-validation, not one run"),
        (lambda: cnnjax.evaluate(done.workdir), CheckpointError, f"name one of them: --workdir={one}$"),
        (lambda: cnnjax.compare_runs([done.workdir, one], tmp_path / "c.html"), CheckpointError, "is a cross-validation"),
    ]  # fmt: skip
    for use, kind, said in uses:
        with pytest.raises(kind, match=said) as error:
            use()
        one_line(error)


def test_a_cross_validation_under_way_has_neither_a_page_nor_one_classifier(done, tmp_path):
    workdir = shutil.copytree(done.workdir, tmp_path / "half")
    RunDirectory(workdir).crossvalidation.unlink()
    for use in (cnnjax.write_report, cnnjax.load):
        with pytest.raises(CheckpointError, match="has not come to its end; continue it with --mode=crossvalidate") as error:
            use(workdir)
        one_line(error)


def test_a_table_of_other_images_is_refused(done, tmp_path):
    workdir = shutil.copytree(done.workdir, tmp_path / "changed")
    one = RunDirectory(workdir / "folds" / "r0k1")
    lines = one.predictions("test").read_text().splitlines()
    one.predictions("test").write_text("\n".join(lines[:-1]))
    one.sealed.seal(one.predictions("test"))
    with pytest.raises(CheckpointError, match="is not of the images of its fold; write it anew with --mode=eval") as error:
        cnnjax.crossvalidate(done.config, workdir)
    one_line(error)
