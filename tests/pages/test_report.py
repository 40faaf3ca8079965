"""The report of a run: its numbers are those of the files."""

import json
import re
import shutil

import numpy as np
import pytest
from page_tools import text
from PIL import Image
from training_tools import child, read_rows, tiny

import cnnjax
from cnnjax import runs
from cnnjax.data import dataset, splits
from cnnjax.errors import CheckpointError, Stopped
from cnnjax.progress import Progress


def test_the_report_shows_the_numbers_of_the_files(two):
    words = text(two.workdir / "report.html")
    assert "Run two. Image classification: Parasitized, Uninfected." in words
    for split in ("train", "val", "test"):
        numbers = json.loads((two.workdir / "eval" / f"{split}.json").read_text())
        row = " ".join([split, str(numbers["images"]), *(f"{numbers[k]:.4f}" for k in ("loss", "accuracy", "auc"))])
        assert row in words
    summary = json.loads((two.workdir / "summary.json").read_text())
    assert f"{summary['parameters']:,} parameters" in words and summary["versions"]["jax"] in words
    assert f"kernels {summary['kernels']} precision float32" in words
    assert "No group is in two splits; 12 groups in all." in words
    assert "augment.rotation 45.0 0.0" in words and "augment.shear" not in words.split("The whole config")[0]
    for row in runs.RunDirectory(two.workdir).read_history():
        assert f"{row['epoch']} {row['step']} {row['loss']:.4f}" in words
    for part in ("augmentation", "training steps", "waiting for input", "compiling", "validation", "saving", "ROC"):
        assert part in words


def test_the_page_is_made_from_files_alone(two, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "moved")
    shutil.rmtree(workdir / "checkpoints")
    numbers = json.loads((workdir / "eval" / "test.json").read_text())
    numbers["accuracy"] = 0.1234
    runs.RunDirectory(workdir).write_json(workdir / "eval" / "test.json", numbers)
    code = f"import sys, cnnjax; cnnjax.write_report({str(workdir)!r}); assert 'jax' not in sys.modules"
    done = child(["-W", "error", "-c", code])
    assert done.returncode == 0, done.stderr
    assert "0.1234" in text(workdir / "report.html")


def test_a_page_that_cannot_be_written_is_one_line(two, three, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for make in (lambda: cnnjax.write_report(two.workdir, file / "page.html"),
                 lambda: cnnjax.compare_runs([two.workdir, three.workdir], file / "page.html")):  # fmt: skip
        with pytest.raises(CheckpointError, match="cannot write to .*file .*name another place with --output=FILE"):
            make()


def test_the_network_is_shown_as_it_was_trained(two):
    rows = json.loads((two.workdir / "network.json").read_text())
    assert sum(row["parameters"] for row in rows) == two.summary["parameters"]
    words = text(two.workdir / "report.html")
    assert all(row["name"] in words for row in rows) and f"total {two.summary['parameters']:,}" in words


def test_mistakes_and_doubts_are_those_of_the_table(two):
    rows = read_rows(two.workdir / "eval" / "train.csv")
    numbers = json.loads((two.workdir / "eval" / "train.json").read_text())
    names = ("p_Parasitized", "p_Uninfected")
    best = {row["id"]: max(float(row[n]) for n in names) for row in rows}
    wrong = [row["id"] for row in rows if row["label"] != row["predicted"]]
    assert wrong
    shown = [look["id"] for look in numbers["mistakes"]]
    assert len(shown) == min(12, len(wrong)) and set(shown) <= set(wrong)
    assert [best[i] for i in shown] == sorted((best[i] for i in wrong), reverse=True)[: len(shown)]
    doubts = [best[look["id"]] for look in numbers["uncertain"]]
    assert len(doubts) == 12 and np.allclose(doubts, sorted(p for i, p in best.items() if i not in wrong)[:12])
    for look in numbers["mistakes"] + numbers["uncertain"]:
        assert abs(look["probability"] - best[look["id"]]) < 1e-12


def test_thumbnails_are_the_files_themselves_not_what_the_network_sees(two, cell_folder):
    look = json.loads((two.workdir / "eval" / "test.json").read_text())["uncertain"][0]
    with Image.open(two.workdir / "eval" / look["file"]) as thumbnail, Image.open(cell_folder / look["id"]) as original:
        assert thumbnail.size == original.size
        difference = np.abs(np.asarray(thumbnail.convert("RGB"), int) - np.asarray(original.convert("RGB"), int))
        assert difference.mean() < 8  # PNG, or JPEG


def test_images_that_have_vanished_are_shown_as_the_network_saw_them(two, cell_folder, cache, tmp_path):
    data = dataset.prepare(two.config, two.workdir, Progress(), freeze=False)
    lost = dataset.Dataset(**{**vars(data), "stream": lambda: iter(())})
    assert lost.originals([0, 1]) == {} and set(data.originals([0, 1])) == {0, 1}


def test_a_run_that_was_stopped_has_a_report_too(cell_folder, cache, tmp_path):
    config = tiny(cell_folder, cache)
    polls = iter(range(1000))
    with pytest.raises(Stopped):
        cnnjax.train(config, tmp_path / "run", stop=lambda: next(polls) > 14)
    path = cnnjax.write_report(tmp_path / "run")
    assert "has not come to its end" in text(path) and "Test in detail" not in text(path)


def test_a_report_of_a_directory_without_a_run_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run; train first, or name a run directory with --workdir"):
        cnnjax.write_report(tmp_path)
    with pytest.raises(CheckpointError, match="two or more different run directories"):
        cnnjax.compare_runs([tmp_path, tmp_path])


def test_groups_on_two_sides_are_warned_of(two, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "leaky")
    rows = list(splits.read(workdir / "splits.csv"))
    moved = next(row for row in rows if row[3] == "test")  # other images of its group stay where they were
    changed = [(*row[:3], "train" if row is moved else row[3]) for row in rows]
    run = runs.RunDirectory(workdir)
    run.write_rows(run.splits, ("id", "label", "group", "split"), changed)
    assert re.search(r"1 group in more than one split, such as C\d+", text(cnnjax.write_report(workdir)))


def test_training_curves_of_mixed_images_carry_a_warning(two, three):
    assert "do not compare" in text(three.workdir / "report.html")
    assert "do not compare" not in text(two.workdir / "report.html")


def test_tensorboard_gets_a_fixed_batch_as_it_is_augmented(two):
    events = b"".join(path.read_bytes() for path in (two.workdir / "tensorboard").iterdir())
    assert events.count(b"augmented") == 3 and events.count(b"\x89PNG") == 3  # an image for each epoch
