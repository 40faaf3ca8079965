"""Runs that go on: more epochs of a finished run, and weights that come from another one."""

import json
import shutil

import jax
import numpy as np
import pytest
from training_tools import Said, losses, one_line, read_rows

import cnnjax
from cnnjax import pages, training
from cnnjax.checkpoints import Checkpoints
from cnnjax.commands.report import write_report
from cnnjax.commands.train import train
from cnnjax.errors import CheckpointError, ConfigError, Stopped
from cnnjax.runs import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")


def weights(workdir, step="latest"):
    return cnnjax.load(workdir, step).params


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def short(make, tmp_path_factory):
    """A finished run of two epochs. Copy it."""
    workdir = tmp_path_factory.mktemp("short") / "run"
    train(make(train__epochs=2), workdir)
    return workdir


def test_more_epochs_of_a_finished_run_are_those_of_a_longer_one(short, make, tmp_path):
    mine, said = shutil.copytree(short, tmp_path / "run"), Said()
    summary = train(make(train__epochs=4), mine, progress=said).summary
    train(make(train__epochs=4), tmp_path / "whole")
    assert losses(mine) == losses(tmp_path / "whole") and same(weights(mine), weights(tmp_path / "whole"))
    assert summary["epochs"] == 4 and json.loads((mine / "config.json").read_text())["train"]["epochs"] == 4
    assert "continuing from step 16" in said.lines and "  4 epochs instead of 2" in said.lines
    before = (mine / "summary.json").read_bytes()
    train(make(train__epochs=4), mine)  # finished
    assert (mine / "summary.json").read_bytes() == before


def test_fewer_epochs_are_refused_and_the_run_is_as_it_was(short, make, tmp_path):
    mine = shutil.copytree(short, tmp_path / "run")
    with pytest.raises(CheckpointError) as error:
        train(make(train__epochs=1), mine)
    assert "train.epochs: 2 -> 1" in one_line(error) and "a higher --config.train.epochs alone" in one_line(error)
    with pytest.raises(CheckpointError, match="seed: 0 -> 1"):
        train(make(train__epochs=3, seed=1), mine)
    assert json.loads((mine / "summary.json").read_text()) == json.loads((short / "summary.json").read_text())


def test_a_longer_run_that_is_stopped_is_not_finished_and_goes_on(short, make, tmp_path):
    mine = shutil.copytree(short, tmp_path / "run")
    asked = iter(range(100))
    with pytest.raises(Stopped):
        train(make(train__epochs=4), mine, stop=lambda: next(asked) > 6)
    assert json.loads((mine / "summary.json").read_text())["stopped"] == "signal"
    train(make(train__epochs=4), mine)
    train(make(train__epochs=4), tmp_path / "whole")
    assert losses(mine) == losses(tmp_path / "whole") and same(weights(mine), weights(tmp_path / "whole"))


def test_patience_that_had_ended_a_run_begins_anew(make, tmp_path):
    options = {"train__patience": 1, "optimizer__learning_rate": 1e-8, "train__monitor": "val_accuracy"}  # it gets no better
    assert train(make(train__epochs=9, **options), tmp_path / "run").summary["stopped"] == "early"
    first = len(read_rows(tmp_path / "run" / "history.csv"))
    train(make(train__epochs=10, **options), tmp_path / "run")
    assert first == 2 and len(read_rows(tmp_path / "run" / "history.csv")) == 3


def test_patience_that_was_not_spent_goes_on(make, tmp_path):
    options = {"train__patience": 3, "optimizer__learning_rate": 1e-8, "train__monitor": "val_accuracy"}
    train(make(train__epochs=3, **options), tmp_path / "run")
    assert train(make(train__epochs=9, **options), tmp_path / "run").summary["stopped"] == "early"
    assert len(read_rows(tmp_path / "run" / "history.csv")) == 4, "as of a run that was longer from the start"


@pytest.mark.slow
def test_a_schedule_that_reaches_to_the_end_says_where_it_goes_on(make, tmp_path):
    train(make(train__epochs=2, optimizer__schedule="cosine"), tmp_path / "run")
    said = Said()
    train(make(train__epochs=4, optimizer__schedule="cosine"), tmp_path / "run", progress=said)
    line = next(line for line in said.lines if "epochs instead of" in line)
    assert line == ("  4 epochs instead of 2; optimizer.schedule=cosine now reaches to their end: the learning rate goes on at 0.005, it "
                    "had come to 0")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_begins_with_the_best_weights_of_another_run(short, make, tmp_path, ema):
    said = Said()
    train(make(train__epochs=1, model__weights=f"run:{short}", optimizer__learning_rate=1e-12, train__ema_decay=ema), tmp_path / "run",
          progress=said)  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), weights(tmp_path / "run"), weights(short, "best"))
    assert any(
        "begins with the weights of" in line and "8 of 8 arrays" in line and "new are" not in line for line in said.lines
    )
    assert not any("have the name of a training image" in line for line in said.lines), "the split is the same"


def test_other_classes_have_another_last_layer(short, make, make_folder, tmp_path):
    folder, said = make_folder(tmp_path / "other", ("a", "b", "c"), 24), Said()
    config = make(data__path=str(folder), data__positive="", data__group="", split__method="stratified", train__epochs=1,
                  model__weights=f"run:{short}", optimizer__learning_rate=1e-12)  # fmt: skip
    train(config, tmp_path / "run", progress=said)
    mine, theirs = weights(tmp_path / "run")["params"], weights(short, "best")["params"]
    np.testing.assert_allclose(mine["dense1"]["kernel"], theirs["dense1"]["kernel"], atol=1e-8)
    assert mine["outputs"]["kernel"].shape == (16, 3)
    assert any("6 of 8 arrays; new are outputs/" in line for line in said.lines)


def test_two_classes_of_other_names_have_another_last_layer_too(short, make, make_folder, tmp_path):
    folder, said = make_folder(tmp_path / "other", ("a", "b"), 24), Said()
    config = make(data__path=str(folder), data__positive="", data__group="", split__method="stratified", train__epochs=1,
                  model__weights=f"run:{short}")  # fmt: skip
    train(config, tmp_path / "run", progress=said)
    assert any("6 of 8 arrays; new are outputs/" in line for line in said.lines)


def test_validation_images_that_the_other_run_was_trained_on_are_told(short, make, tmp_path):
    said = Said()
    train(make(train__epochs=1, model__weights=f"run:{short}", split__seed=5), tmp_path / "run", progress=said)
    assert any("of val and test have the name of a training image of" in line for line in said.lines)


@pytest.mark.slow
def test_a_network_that_fits_nowhere_or_is_not_there_is_one_line(short, make, tmp_path):
    with pytest.raises(ConfigError) as error:
        train(make(model__weights=f"run:{short}", model__name="resnet18", image__size=32, train__epochs=1), tmp_path / "a")
    assert "nothing but the last layer of that network fits ResNet; name a run of the same network" in one_line(error)
    with pytest.raises(CheckpointError, match="no checkpoints in"):
        train(make(model__weights=f"run:{tmp_path / 'nowhere'}"), tmp_path / "b")
    assert not (tmp_path / "a" / "config.json").exists() and not (tmp_path / "b").exists()


def test_a_finished_start_is_not_needed_any_more(short, make, tmp_path):
    gone = shutil.copytree(short, tmp_path / "gone")
    asked = iter(range(100))
    config = make(train__epochs=2, model__weights=f"run:{gone}")
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop=lambda: next(asked) > 6)
    shutil.rmtree(gone)
    assert train(config, tmp_path / "run").summary["stopped"] == "finished"


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_auc"])
def test_the_best_epoch_is_that_of_the_monitor(make, tmp_path, monitor):
    summary = train(make(train__epochs=6, train__monitor=monitor), tmp_path / "run").summary
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = {row["step"]: row[monitor] for row in rows if monitor in row}
    best = min(step for step, value in values.items() if value == max(values.values()))
    assert summary["best_step"] == best and len(values) == 6
    with Checkpoints(RunDirectory(tmp_path / "run")) as checkpoints:
        assert checkpoints.best() == best


def test_the_last_epoch_may_be_the_best_one(make, tmp_path):
    config = make(
        train__epochs=5, train__evaluate_every=2, train__monitor="last", optimizer__learning_rate=1e-8
    )  # it gets no better
    summary = train(config, tmp_path / "run").summary
    directory = RunDirectory(tmp_path / "run")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.best() == summary["best_step"] == summary["steps"]
    page = write_report(tmp_path / "run", tmp_path / "page.html").read_text()
    assert "last epoch, which is kept" in page and "5 of 5" in page and "which validation has chosen" not in page
    assert "Epoch 5, the last one, is kept: nothing chose it" in pages.card_text(pages.read_record(directory))


@pytest.mark.slow
def test_whitening_is_that_of_the_own_images(short, make, tmp_path):
    train(make(train__epochs=1, model__weights=f"run:{short}", image__zca=True), tmp_path / "run")
    matrix = weights(tmp_path / "run")["stats"]["whiten"]["matrix"]
    assert np.isfinite(matrix).all() and not np.allclose(matrix, np.eye(len(matrix)))


def test_learning_rates_are_tried_from_those_weights(short, make, tmp_path, monkeypatch):
    def begins(**options):
        return next(iter(range_test_of(make(**options)).losses))

    def range_test_of(config):
        found = []
        real = training.range_test
        monkeypatch.setattr(training, "range_test", lambda *given, **more: found.append(real(*given, **more)) or found[-1])
        cnnjax.lr_find(config, tmp_path / "lr")
        monkeypatch.setattr(training, "range_test", real)
        return found[0]

    assert begins(model__weights=f"run:{short}") < begins() - 0.05
