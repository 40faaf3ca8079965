"""The linear probe: features once, a logistic regression as the last layer, and a run like any other."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training_tools import one_line, tiny

import cnnjax
from cnnjax import data as data_lib
from cnnjax import inference, runs, runtime
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.train import train
from cnnjax.data import features as feature_files
from cnnjax.errors import ConfigError, DataError, Stopped
from cnnjax.progress import Progress
from cnnjax.training import features as features_lib
from cnnjax.training import make_plan, probe

PROBE = {"train__method": "probe", "train__epochs": 30, "train__patience": 10, "optimizer__learning_rate": 1e-3}
PENALTIES = (1000.0, 100.0, 30.0, 10.0, 3.0)


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text.strip())

    warn = message

    def of(self, word):
        return [line for line in self.lines if word in line]


def settings(folder, cache, **more):
    return tiny(folder, cache, **{**PROBE, "probe__penalties": PENALTIES, **more})


@pytest.fixture(scope="module")
def run(cell_folder, cache, tmp_path_factory):
    """A finished run with its report: (config, workdir, run, lines)."""
    heard, workdir = Heard(), tmp_path_factory.mktemp("probe") / "run"
    config = settings(cell_folder, cache)
    return config, workdir, train(config, workdir, progress=heard), heard


def of_network(workdir, images, part):
    """The outputs of a part of a restored network."""
    restored = inference.restore(workdir)
    compiled = getattr(inference, part)(restored.engine.network, restored.engine.mesh)
    return np.asarray(compiled(restored.engine.model, images))


def test_the_last_layer_is_the_regression_of_scikit_learn_on_standardised_features(run):
    config, workdir, made, _ = run
    data = data_lib.prepare(config, workdir, Progress(), freeze=False)
    rows = made.history
    penalty = next(row["penalty"] for row in rows if row["step"] == made.summary.best_step)
    features = {name: of_network(workdir, data.images[data.splits[name]], "compile_features") for name in ("train", "test")}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000))
    model.fit(features["train"].astype(np.float64), data.labels[data.splits["train"]])
    logits = of_network(workdir, data.images[data.splits["test"]], "compile_logits")
    expected = model.predict_proba(features["test"].astype(np.float64))[:, 1]
    np.testing.assert_allclose(expit(logits[:, 0].astype(np.float64)), expected, atol=1e-4)


def test_a_run_has_a_row_for_each_penalty_and_the_files_of_every_run(run):
    _, workdir, made, heard = run
    rows = made.history
    assert [row["penalty"] for row in rows] == list(PENALTIES)[: len(rows)] and len(rows) == made.summary.steps
    assert made.summary.best_step == min(rows, key=lambda row: row["val_loss"])["step"]
    assert made.summary.stopped == "finished" and made.summary.images_per_second > 0
    report = (workdir / "report.html").read_text()
    assert "best penalty, by validation loss" in report and "All penalties as a table" in report
    assert "epoch" not in re.sub(r"(?s)<details.*?</details>", "", report)
    assert len(heard.of("features of 96 images in")) == 1
    assert (workdir / "curves.png").stat().st_size > 1000
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["penalty"] for line in log] == [row["penalty"] for row in rows]


def test_evaluation_and_prediction_give_the_numbers_of_the_regression(run, cell_folder):
    _, workdir, made, _ = run
    assert evaluate(workdir, "test")["loss"] == pytest.approx(made.summary.test["loss"], rel=1e-5)
    with open(workdir / "eval" / "test.csv", newline="") as file:
        row = next(csv.DictReader(file))
    prediction = cnnjax.load(workdir).predict([cell_folder / row["id"]])[0]
    assert prediction.probabilities["Parasitized"] == pytest.approx(float(row["p_Parasitized"]), rel=1e-4)


def test_a_run_that_is_stopped_keeps_the_features_that_are_done(run, cell_folder, isolated_cache, tmp_path, monkeypatch,
                                                                without_pictures):  # fmt: skip
    monkeypatch.setattr(feature_files, "ROWS", 32)
    config = settings(cell_folder, isolated_cache)
    done = []
    add = feature_files.FeatureFiles.add
    monkeypatch.setattr(feature_files.FeatureFiles, "add", lambda *args: (add(*args), done.append(1)))
    with pytest.raises(Stopped, match="those that are done are kept"):
        train(config, tmp_path / "run", stop=lambda: len(done) == 2)
    assert runs.RunDirectory(tmp_path / "run").read_summary().stopped == "signal"
    heard = Heard()
    made = train(config, tmp_path / "run", progress=heard)
    assert heard.of("features of 32 images in")[0].endswith("those of 64 more were in the cache")
    assert made.summary.test == run[2].summary.test and len(done) == 3


def test_a_run_that_is_stopped_behind_its_checkpoint_keeps_its_layer(run, tmp_path, monkeypatch, without_pictures):
    config, workdir, made, _ = run
    begun = runs.RunDirectory(shutil.copytree(workdir, tmp_path / "run"))
    begun.summary.unlink()
    begun.sealed.forget(begun.summary)
    monkeypatch.setattr(probe, "Regression", None)  # not called again
    heard = Heard()
    again = train(config, begun.path, progress=heard)
    assert heard.of("features of 96 images are in the cache") and heard.of("continuing from step")
    assert again.summary.test == made.summary.test and again.history == made.history
    assert again.summary.steps == made.summary.steps


def test_another_split_takes_the_features_of_the_first_and_classes_have_their_weights(
    run, cell_folder, cache, tmp_path, without_pictures
):
    heard, weights = Heard(), ("Parasitized=9", "Uninfected=1")
    config = settings(cell_folder, cache, split__seed=3, train__class_weights=weights, probe__penalties=(3000.0, 1000.0))
    made = train(config, tmp_path / "run", progress=heard)
    assert heard.of("features of 96 images are in the cache")
    assert (tmp_path / "run/splits.csv").read_text() != (run[1] / "splits.csv").read_text()
    assert made.summary.val["sensitivity"] > 0.99 > made.summary.val["specificity"]
    (line,) = heard.of("of probe.penalties is the best")
    assert "the weakest" in line and "--config.probe.penalties=3000,1000,100" in line


def test_files_keep_the_features_of_others_and_one_that_was_cut_short_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "ROWS", 4)
    files, features = feature_files.FeatureFiles(tmp_path, "abc"), np.arange(30, dtype=np.float32).reshape(10, 3)
    rows = np.array([1, 2, 5, 8])
    assert [task.tolist() for task in files.tasks(rows)] == [[1, 2], [5], [8]]
    for task in [*files.tasks(rows), np.array([3])]:
        files.add(task, features[task])
    found = files.read(np.array([8, 3, 0, 1]), 3)
    np.testing.assert_array_equal(found[[0, 1, 3]], features[[8, 3, 1]])
    assert np.isnan(found[2]).all()
    (tmp_path / "features/abc/0.npy").write_bytes((tmp_path / "features/abc/0.npy").read_bytes()[:140])
    assert np.isnan(files.read(np.array([1]), 3)).all() and np.isfinite(files.read(np.array([5]), 3)).all()
    assert np.isnan(files.read(np.array([5]), 2)).all()
    assert not list(tmp_path.glob("features/abc/building-*"))


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(DataError, match="cannot write features") as error:
        feature_files.FeatureFiles(tmp_path, "abc").add(np.array([1]), np.ones((1, 3), np.float32))
    one_line(error)


def test_other_weights_another_preprocessing_and_another_network_have_other_features(cell_folder, cache):
    def key(view=0, images="abc", weights=b"1", **more):
        config = settings(cell_folder, cache, **more)
        data = SimpleNamespace(key=images)
        return features_lib._key(config, plan_of(config), data, weights.hex(), view)

    same = {"split__seed": 4, "train__monitor": "val_accuracy", "data__batch_size": 4, "augment__rotation": 20.0}
    assert key() == key(**same)
    others = [key(weights=b"2"), key(images="abd"), key(model__pool_stride=1), key(train__precision="bfloat16"),
              key(image__mean=(0.5, 0.5, 0.5)), key(1), key(2), key(1, seed=1), key(1, augment__rotation=20.0)]  # fmt: skip
    assert len({key(), *others}) == 1 + len(others)
    assert key(seed=1) == key()  # but the weights that the seed draws


def test_a_view_of_an_image_depends_on_no_other_image(cell_folder, cache):
    config = settings(cell_folder, cache, probe__views=2, augment__brightness=0.5, augment__flip_horizontal=True)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    views, other = features_lib.Views(config, images, 1), features_lib.Views(config, images, 2)
    together = views[np.arange(4)]
    assert together.dtype == np.uint8 and (together != images[:4]).mean() > 0.5
    np.testing.assert_array_equal(views[np.array([7, 2, 5])][1], together[2])
    assert (other[np.arange(4)] != together).mean() > 0.5


def test_views_are_more_training_images_of_the_same_weight(cell_folder, cache, tmp_path, without_pictures, run):
    heard = Heard()
    config = settings(cell_folder, cache, probe__views=3, augment__flip_horizontal=True)
    made = train(config, tmp_path / "run", progress=heard)
    count = made.summary.train["images"]
    assert heard.of(f"features of {2 * count} images in")[0].endswith("those of 96 more were in the cache")
    first, plain = made.history[0], run[2].history[0]
    assert first["loss"] == pytest.approx(plain["loss"], rel=0.05) and first["loss"] != plain["loss"]


def plan_of(config):
    return make_plan(config, runtime.mesh(), 2, 8)


def data_of(labels):
    class Some:
        splits, classes = {"train": np.arange(len(labels))}, ("cat", "dog")

    Some.labels = np.array(labels)
    return Some


OWN = """
import jax.numpy as jnp
from flax import nnx
from cnnjax.models import Layer, Layered

class Direct(Layered):
    def __init__(self, outputs, section, *, preprocessing, dtype, ops, rngs):
        super().__init__(preprocessing, dtype, ops)
        self.outputs = nnx.Linear(3, outputs, rngs=rngs)
        self.layers = (Layer("average", "average"), Layer("outputs", "dense", "outputs"))

    def __call__(self, images, rngs=None):
        return self.outputs(images.mean((1, 2)).astype(jnp.float32))

class Pooled(Layered):
    def __init__(self, outputs, section, *, preprocessing, dtype, ops, rngs):
        super().__init__(preprocessing, dtype, ops)
        self.conv = nnx.Conv(3, outputs, (3, 3), rngs=rngs)
        self.layers = (Layer("conv", "conv", "conv"), Layer("average", "average"))
"""


@pytest.mark.parametrize(
    "name, match", [("Direct", "does not apply its layers in turn"), ("Pooled", "is average, not a dense layer")]
)
def test_a_network_without_a_dense_last_layer_is_refused(name, match, cell_folder, cache, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    config = settings(cell_folder, cache, model__name=f"{tmp_path / 'own.py'}:{name}")
    with pytest.raises(ConfigError, match=match) as error:
        probe.check_probe(config, plan_of(config), data_of([0, 1]))
    one_line(error)


def test_training_images_of_one_class_are_refused(cell_folder, cache):
    config = settings(cell_folder, cache)
    with pytest.raises(DataError, match="all training images are of the class dog") as error:
        probe.check_probe(config, plan_of(config), data_of([1, 1, 1]))
    one_line(error)


def test_the_network_has_no_optimizer_and_its_backbone_stays(run):
    config, workdir, _, _ = run
    plan = plan_of(config)
    assert not jax.tree.leaves(plan.steps.abstract.opt_state)
    first, fitted = plan.steps.first().params, inference.restore(workdir).engine.model["params"]
    for name in first:
        for leaf in first[name]:
            same = np.array_equal(first[name][leaf], fitted[name][leaf])
            assert same == (name != "outputs"), name
