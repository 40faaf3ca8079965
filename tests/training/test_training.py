"""Runs from beginning to end: what they leave, and that they can be stopped, moved and repeated."""

import json
import math
import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from stop_requests import after_lines
from training_tools import LOSS_COLUMNS, Said, losses, network_of, one_line, read_rows, tiny

import cnnjax
from cnnjax import checkpoints, runtime
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.train import train
from cnnjax.config import AUTO
from cnnjax.errors import CheckpointError, DataError, Stopped
from cnnjax.runs import RunDirectory
from cnnjax.training.validation import Validation

pytestmark = pytest.mark.usefixtures("without_pictures")  # but for the runs that several tests share

HISTORY = [*LOSS_COLUMNS, "seconds", "images_per_second"]
# Everything that carries state from step to step at once.
EVERYTHING = dict(
    model__norm="batch",
    model__dropout_dense=0.3,
    augment__flip_horizontal=True,
    augment__rotation=20.0,
    optimizer__schedule="cosine",
    optimizer__warmup_epochs=0.5,
    data__batch_size=12,  # does not divide the 64 training images: epochs of 6 steps overlap in the stream
)


@pytest.fixture(scope="module")
def undisturbed(make, tmp_path_factory):
    """A finished run with everything that has state."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    config = make(**EVERYTHING)
    return SimpleNamespace(workdir=workdir, config=config, summary=train(config, workdir))


def log(workdir):
    """Lines of metrics.jsonl without the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def weights(workdir, config, step="latest"):
    """{"params", "stats"} of a checkpoint as NumPy arrays."""
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        abstract = {"model": network_of(config, 2).abstract(runtime.mesh())}
        return jax.device_get(saved.load(saved.resolve(step), abstract)["model"])


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def snapshot(workdir):
    """Every file's content and time."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(workdir.rglob("*")) if p.is_file()}


MEASURE = Validation.measure


def scripted(monkeypatch, val_losses):
    """The validation losses of the epochs to come, instead of the real ones."""
    values = iter(val_losses)
    monkeypatch.setattr(Validation, "measure", lambda self, state: {**MEASURE(self, state), "loss": next(values)})


# What a run leaves


def test_a_run_directory_has_every_file(plain):
    there = {str(p.relative_to(plain.workdir)) for p in plain.workdir.rglob("*") if p.is_file()}
    expected = {"config.json", "splits.csv", "quarantine.csv", "metrics.jsonl", "history.csv", "curves.png", "network.png",
                "summary.json", "network.json", "report.html", "checksums/24.json"}  # fmt: skip
    expected |= {f"eval/{split}.{kind}" for split in ("train", "val", "test") for kind in ("json", "csv")}
    assert expected <= there
    there.remove(".lock")
    assert not [name for name in there if os.path.basename(name).startswith(".") or "tmp" in name]
    for picture in ("curves.png", "network.png"):
        assert (plain.workdir / picture).read_bytes().startswith(b"\x89PNG")
    assert json.loads((plain.workdir / "config.json").read_text())["model"]["channels"] == [4, 8]


def test_history_has_a_row_per_epoch(plain):
    rows = read_rows(plain.workdir / "history.csv")
    assert list(rows[0]) == HISTORY
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(1, 8), (2, 16), (3, 24)]
    for row in rows:
        assert all(math.isfinite(float(value)) for value in row.values())
        assert 0 <= float(row["accuracy"]) <= 1 and float(row["seconds"]) > 0 and float(row["images_per_second"]) > 0
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_the_training_loss_of_an_epoch_is_the_mean_of_its_steps(plain):
    rows = log(plain.workdir)
    steps = [row for row in rows if "learning_rate" in row]
    assert [row["step"] for row in steps] == list(range(1, 25))
    assert [row["step"] for row in rows if "val_loss" in row] == [8, 16, 24]
    for epoch, row in enumerate(read_rows(plain.workdir / "history.csv")):
        inside = steps[8 * epoch : 8 * epoch + 8]
        assert float(row["loss"]) == pytest.approx(np.mean([r["loss"] for r in inside]), rel=1e-5)
        assert float(row["accuracy"]) == pytest.approx(np.mean([r["accuracy"] for r in inside]), rel=1e-5)


def test_the_summary_has_its_keys_and_the_best_step_of_the_history(plain):
    summary = json.loads((plain.workdir / "summary.json").read_text())
    assert summary == plain.summary
    assert {"best_step", "steps", "epochs", "stopped", "seconds", "images_per_second", "parameters"} <= set(summary)
    assert (summary["steps"], summary["epochs"], summary["stopped"]) == (24, 3, "finished")
    history = read_rows(plain.workdir / "history.csv")
    best = min(history, key=lambda row: float(row["val_loss"]))
    assert summary["best_step"] == int(best["step"])
    for split in ("train", "val", "test"):
        assert {"images", "loss", "accuracy", "auc", "sensitivity", "specificity"} <= set(summary[split])
    assert summary["val"]["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-6)
    assert summary["val"]["accuracy"] == float(best["val_accuracy"])
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(weights(plain.workdir, plain.config)["params"])) == summary["parameters"]
    )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_eval_files_agree_with_each_other_and_with_the_split(plain, split):
    result = json.loads((plain.workdir / "eval" / f"{split}.json").read_text())
    rows = read_rows(plain.workdir / "eval" / f"{split}.csv")
    inside = {r["id"]: r for r in read_rows(plain.workdir / "splits.csv") if r["split"] == split}
    assert sorted(r["id"] for r in rows) == sorted(inside)  # each image once
    names = ("z_Parasitized", "z_Uninfected", "p_Parasitized", "p_Uninfected")
    assert list(rows[0]) == ["id", "group", "label", "predicted", *names]
    assert all(r["label"] == inside[r["id"]]["label"] and r["group"] == inside[r["id"]]["group"] for r in rows)
    p = np.array([[float(r["p_Parasitized"]), float(r["p_Uninfected"])] for r in rows])
    np.testing.assert_allclose(p.sum(1), 1)
    assert [r["predicted"] for r in rows] == [result["classes"][i] for i in p.argmax(1)]
    true = np.array([result["classes"].index(r["label"]) for r in rows])
    assert result["images"] == len(rows) == np.sum(result["confusion"])
    assert result["accuracy"] == pytest.approx(np.mean(p.argmax(1) == true))
    assert result["accuracy"] == pytest.approx(np.trace(result["confusion"]) / len(rows))
    assert result["loss"] == pytest.approx(-np.log(p[np.arange(len(p)), true]).mean(), rel=1e-6)
    assert result["positive"] == "Parasitized"
    assert result["auc"] == pytest.approx(roc_auc_score(true == 0, p[:, 0]))
    assert result["sensitivity"] == pytest.approx(np.mean(p.argmax(1)[true == 0] == 0))
    assert result["per_class"]["Parasitized"]["recall"] == result["sensitivity"]
    assert "top5_accuracy" not in result
    assert plain.summary[split] == {key: result[key] for key in plain.summary[split]}


def test_tensorboard_event_files_are_written_when_asked(plain, undisturbed):
    assert list((plain.workdir / "tensorboard").glob("events.out.tfevents*"))
    assert not (undisturbed.workdir / "tensorboard").exists()


def test_checkpoints_are_the_latest_two_and_the_best(make, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.9, 0.8, 0.7, 0.6])
    train(make(train__epochs=5), tmp_path / "run")
    assert sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()) == [8, 32, 40]


def test_a_folder_of_ten_images_trains_with_the_default_batch(make_folder, tmp_path):
    folder, said = make_folder(tmp_path / "few", per_class=5), Said()
    config = tiny(folder, tmp_path / "cache", data__batch_size=32, data__group="", split__method="stratified",
                  train__epochs=1)  # fmt: skip
    summary = train(config, tmp_path / "run", progress=said)
    assert "data.batch_size=32 is more than the 6 training images: each step takes 6" in said.lines
    assert summary["steps"] == 1 and "1 step of 6 images per epoch, at most 1 epoch\n" in cnnjax.describe(config, tmp_path)
    assert evaluate(tmp_path / "run", "val")["loss"] == summary["val"]["loss"]


# Repeated, stopped and continued


def test_the_same_seed_twice_gives_the_same_numbers_bit_for_bit(make, undisturbed, tmp_path):
    again = train(make(**EVERYTHING), tmp_path / "again")
    assert losses(tmp_path / "again") == losses(undisturbed.workdir)
    assert log(tmp_path / "again") == log(undisturbed.workdir)
    assert again["test"] == undisturbed.summary["test"]
    assert same(weights(tmp_path / "again", undisturbed.config), weights(undisturbed.workdir, undisturbed.config))


@pytest.mark.slow
def test_another_seed_gives_other_numbers_on_the_same_split(make, undisturbed, tmp_path):
    train(make(**EVERYTHING, seed=1, train__epochs=1), tmp_path / "other")
    assert losses(tmp_path / "other")[0] != losses(undisturbed.workdir)[0]
    assert (tmp_path / "other" / "splits.csv").read_bytes() == (undisturbed.workdir / "splits.csv").read_bytes()


@pytest.mark.parametrize(
    "lines, steps",
    [
        ([2], [3]),  # before anything was evaluated
        ([9], [9]),  # within the second epoch; a line of these is the evaluation at step 6
        ([7], [6]),  # right after the first evaluation
        ([4, 6, 16], [5, 6, 15]),  # three times
    ],
)
def test_a_stopped_run_ends_as_the_undisturbed_one_bit_for_bit(make, undisturbed, tmp_path, lines, steps):
    workdir = tmp_path / "run"
    for count, step in zip(lines, steps, strict=True):
        with pytest.raises(Stopped, match=f"stopped at step {step}, everything is saved; the same command continues"):
            train(make(**EVERYTHING), workdir, stop=after_lines(workdir, count))
        assert json.loads((workdir / "summary.json").read_text())["stopped"] == "signal"
        with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
            assert saved.latest() == step
    said = Said()
    summary = train(make(**EVERYTHING), workdir, progress=said)
    assert f"continuing from step {steps[-1]}" in said.lines
    assert losses(workdir) == losses(undisturbed.workdir)
    assert log(workdir) == log(undisturbed.workdir)
    for key in ("best_step", "steps", "epochs", "stopped", "train", "val", "test"):
        assert summary[key] == undisturbed.summary[key]
    assert same(weights(workdir, undisturbed.config), weights(undisturbed.workdir, undisturbed.config))
    with pytest.raises(CheckpointError):  # a stop's own checkpoint gives way to later ones
        weights(workdir, undisturbed.config, 3)


def test_a_stop_before_the_first_step_can_be_continued(make, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        train(make(**EVERYTHING), tmp_path / "run", stop=lambda: True)
    train(make(**EVERYTHING), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(undisturbed.workdir)


def test_rows_after_the_last_checkpoint_are_written_once(make, undisturbed, tmp_path):
    """Leaves a run as a crash does: the log is ahead of the checkpoint and its last line is cut."""
    workdir = tmp_path / "run"
    with pytest.raises(Stopped):
        train(make(**EVERYTHING), workdir, stop=after_lines(workdir, 9))
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "loss": 1.0}\n{"step": 11, "lo')
    train(make(**EVERYTHING), workdir)
    assert log(workdir) == log(undisturbed.workdir)


def test_a_finished_run_says_so_and_changes_nothing(make, plain):
    before = snapshot(plain.workdir)
    said = Said()
    assert train(plain.config, plain.workdir, progress=said) == plain.summary
    assert any("is finished (3 epochs" in line for line in said.lines)
    assert snapshot(plain.workdir) == before


def test_a_finished_run_answers_for_its_own_data_only_wherever_that_has_moved(
    make, make_folder, cell_folder, plain, tmp_path
):
    shutil.copytree(cell_folder, tmp_path / "moved")
    assert train(make(log__tensorboard=True, data__path=str(tmp_path / "moved")), plain.workdir) == plain.summary
    other = make_folder(tmp_path / "other", per_class=4)
    with pytest.raises(
        DataError, match=r"was trained on .*cells, not on .*other; train on that with --workdir=.*run-other"
    ) as error:
        train(make(log__tensorboard=True, data__path=str(other)), plain.workdir)
    one_line(error)
    with pytest.raises(DataError, match="no such folder or archive: elsewhere"):
        train(make(log__tensorboard=True, data__path="elsewhere"), plain.workdir)


def test_another_config_in_a_used_directory_is_refused_with_the_difference(make, plain):
    before = snapshot(plain.workdir)
    with pytest.raises(CheckpointError) as error:
        train(make(optimizer__learning_rate=0.5, train__epochs=9), plain.workdir)
    message = one_line(error)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in message and "train.epochs: 3 -> 9" in message
    assert "use another --workdir" in message and "batch_size" not in message
    assert snapshot(plain.workdir) == before


def test_what_changes_no_number_may_differ(make, plain):
    assert train(make(log__every=7, runtime__workers=2), plain.workdir) == plain.summary


def test_a_run_that_evaluates_each_epoch_goes_on_so_where_that_is_decided_for_it(make, tmp_path):
    with pytest.raises(Stopped):
        train(make(train__evaluate_every=1), tmp_path / "run", stop=after_lines(tmp_path / "run", 4))
    train(make(train__evaluate_every=AUTO), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["evaluate_every"] == 1


def test_a_stopped_run_that_was_moved_goes_on(make, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        train(make(**EVERYTHING), tmp_path / "here", stop=after_lines(tmp_path / "here", 9))
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(make(**EVERYTHING), tmp_path / "there")
    assert losses(tmp_path / "there") == losses(undisturbed.workdir)
    assert not (tmp_path / "here").exists()


# Early stopping and the learning rate


def test_patience_stops_and_the_best_checkpoint_is_the_one_that_counts(make, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.9, 0.5, 0.6, 0.5, 0.7, 0.4])  # an equal loss is not a lower one
    summary = train(make(train__epochs=6, train__patience=3), tmp_path / "run")
    assert (summary["stopped"], summary["epochs"], summary["best_step"]) == ("early", 5, 16)
    monkeypatch.undo()
    assert evaluate(tmp_path / "run", "test")["step"] == 16
    best = json.loads((tmp_path / "run" / "eval" / "test.json").read_text())
    latest = evaluate(tmp_path / "run", "test", "latest")
    assert (best["step"], latest["step"]) == (16, 40) and best["loss"] != latest["loss"]
    assert summary["test"]["loss"] == best["loss"]
    assert json.loads((tmp_path / "run" / "eval" / "test-40.json").read_text()) == latest
    assert cnnjax.load(tmp_path / "run").step == 16
    assert not same(weights(tmp_path / "run", make(), "best"), weights(tmp_path / "run", make(), "latest"))


def test_epochs_between_two_evaluations_are_neither_evaluated_nor_saved(make, undisturbed, tmp_path):
    config = make(**EVERYTHING, train__epochs=5, train__evaluate_every=2)
    said = Said()
    whole = train(config, tmp_path / "whole", progress=said)
    assert any(line.endswith("at most 5 epochs; each 2. and the last are evaluated and saved") for line in said.lines)
    rows = read_rows(tmp_path / "whole" / "history.csv")
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(2, 12), (4, 24), (5, 30)]
    steps = [row["loss"] for row in log(tmp_path / "whole") if "learning_rate" in row]
    for begin, row in zip((0, 12, 24), rows, strict=True):
        assert float(row["loss"]) == pytest.approx(np.mean(steps[begin : int(row["step"])]), rel=1e-5)
    kept = {int(p.name) for p in (tmp_path / "whole" / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {24, 30, whole["best_step"]}
    with pytest.raises(Stopped, match="stopped at step 6"):  # after an epoch that is not evaluated
        train(config, tmp_path / "stopped", stop=after_lines(tmp_path / "stopped", 6))
    assert train(config, tmp_path / "stopped")["val"] == whole["val"]
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    assert same(weights(tmp_path / "stopped", config), weights(tmp_path / "whole", config))


def test_patience_counts_the_epochs_that_were_not_evaluated(make, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.6, 0.7])
    summary = train(make(train__epochs=9, train__patience=3, train__evaluate_every=2), tmp_path / "run")
    assert (summary["stopped"], summary["epochs"], summary["best_step"]) == ("early", 6, 16)


@pytest.mark.slow
def test_a_drop_on_a_plateau_acts_on_the_logged_rate_and_the_weights(make, tmp_path, monkeypatch):
    moved = {}
    for factor in (1.0, 1e-6):
        scripted(monkeypatch, [0.5, 0.6, 0.7])
        workdir = tmp_path / str(factor)
        config = make(optimizer__schedule="plateau", optimizer__plateau_patience=0, optimizer__decay_factor=factor)
        said = Said()
        train(config, workdir, progress=said)
        rates = [row["learning_rate"] for row in log(workdir) if "learning_rate" in row]
        assert rates == pytest.approx([0.01] * 16 + [0.01 * factor] * 8)
        assert sum("plateau" in line for line in said.lines) == 2
        before, after = weights(workdir, config, 16), weights(workdir, config, 24)
        moved[factor] = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    assert moved[1.0] > 1e-3 > 1e-5 > moved[1e-6]


@pytest.mark.slow
def test_bfloat16_trains_near_float32(make, plain, tmp_path):
    summary = train(make(train__precision="bfloat16"), tmp_path / "run")
    first, other = losses(plain.workdir), losses(tmp_path / "run")
    assert first != other
    assert float(other[0][2]) == pytest.approx(float(first[0][2]), abs=0.1)
    assert {leaf.dtype for leaf in jax.tree.leaves(weights(tmp_path / "run", make()))} == {np.dtype("float32")}
    assert evaluate(tmp_path / "run", "test")["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)
