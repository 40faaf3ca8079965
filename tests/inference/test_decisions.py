"""Calibration and threshold of a run: chosen on validation, stored, used by whoever predicts, and chosen anew in evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training_tools import Said, one_line, read_rows, tiny

import cnnjax
from cnnjax import inference, metrics
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.commands.train import train
from cnnjax.errors import CheckpointError, ConfigError
from cnnjax.runs import RunDirectory


def settings(folder: Path, cache: Path, **overrides):
    """Settings with most images in validation."""
    return tiny(folder, cache, **{
        "data__group": "", "split__method": "stratified", "split__train": 0.38, "split__val": 0.52, "split__test": 0.1, "train__epochs": 5,
        "evidence__threshold": "sensitivity:0.9", **overrides})  # fmt: skip


@pytest.fixture(scope="module")
def decided(make_folder, tmp_path_factory):
    """A run with 208 validation images and a threshold of sensitivity 0.9; one label of eight is wrong, so that no network is certain."""
    place = tmp_path_factory.mktemp("decided")
    folder = make_folder(place / "cells", per_class=200)
    for path in [path for some in folder.iterdir() for path in sorted(some.iterdir())[::8]]:
        other = next(some for some in folder.iterdir() if some != path.parent)
        path.rename(other / f"moved_{path.name}")
    config = settings(folder, place / "cache")
    said = Said()
    train(config, place / "run", progress=said)
    return place / "run", config, said.lines


@pytest.fixture
def run(decided, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(decided[0], tmp_path / "run"))


def table(run: Path, split: str) -> dict[str, np.ndarray]:
    """Columns of an evaluation: numbers as float64, the rest as text."""
    rows = read_rows(run / "eval" / f"{split}.csv")
    return {name: np.array([row[name] for row in rows], float if name[:2] in ("z_", "p_") else str) for name in rows[0]}


def test_validation_calibrates_and_decides_and_every_split_is_read_so(decided):
    run, _, said = decided
    calibration = metrics.Calibration.from_dict(json.loads((run / "calibration.json").read_text()))
    decision = metrics.Decision.from_dict(json.loads((run / "decision.json").read_text()))
    assert (
        calibration.method == "temperature"
        and calibration.val_images == 208
        and calibration.share == pytest.approx(0.5, abs=0.02)
    )
    assert calibration.step == decision.step == json.loads((run / "summary.json").read_text())["best_step"]
    for split in ("train", "val", "test"):
        rows, told = table(run, split), json.loads((run / "eval" / f"{split}.json").read_text())
        assert list(rows) == [
            "id",
            "group",
            "label",
            "predicted",
            "z_Parasitized",
            "z_Uninfected",
            "p_Parasitized",
            "p_Uninfected",
        ]
        assert not rows["z_Parasitized"].any()
        np.testing.assert_allclose(
            rows["p_Uninfected"], 1 / (1 + np.exp(-calibration.scale * rows["z_Uninfected"])), rtol=1e-6
        )
        called, sick = rows["predicted"] == "Parasitized", rows["label"] == "Parasitized"
        np.testing.assert_array_equal(called, rows["p_Parasitized"] >= decision.threshold)
        assert told["sensitivity"] == called[sick].mean() and told["specificity"] == (~called)[~sick].mean()
        assert told["loss"] == pytest.approx(np.logaddexp(0, np.where(sick, 1, -1) * rows["z_Uninfected"]).mean(), rel=1e-5)
        if split == "val":
            assert (
                decision.val == {"sensitivity": told["sensitivity"], "specificity": told["specificity"]}
                and told["sensitivity"] >= 0.9
            )
            assert calibration.val_log_loss[0] == pytest.approx(told["loss"], rel=1e-6)
    assert sum("calibrated on 208 images of validation: temperature " in line for line in said) == 1
    assert sum("by the rule sensitivity:0.9 on validation" in line for line in said) == 1


def test_the_classifier_and_predict_give_what_the_evaluation_gives(decided, tmp_path):
    run, config, _ = decided
    rows = table(run, "test")
    paths = [str(Path(config.data.path) / id) for id in rows["id"]]
    cells = cnnjax.load(run)
    assert (
        cells.threshold == json.loads((run / "decision.json").read_text())["threshold"]
        and cells.calibration.method == "temperature"
    )
    found = cells.predict(paths)
    np.testing.assert_allclose([p.probabilities["Parasitized"] for p in found], rows["p_Parasitized"], atol=1e-5)
    far = np.abs(rows["p_Parasitized"] - cells.threshold) > 1e-5
    assert [p.predicted for p, is_far in zip(found, far, strict=True) if is_far] == rows["predicted"][far].tolist()
    assert len({p.predicted != max(p.probabilities, key=p.probabilities.get) for p in found}) == 2  # the threshold matters
    predict(run, paths, tmp_path / "out.csv")
    written = read_rows(tmp_path / "out.csv")
    assert [row["predicted"] for row in written] == [p.predicted for p in found]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        cells.predict_proba(pixels)[:, 0], [p.probabilities["Parasitized"] for p in cells.predict(pixels)], atol=1e-6
    )
    raw = np.asarray(cells.apply(cells.params, pixels))  # without the calibration
    np.testing.assert_allclose(
        cells.predict_proba(pixels)[:, 1], 1 / (1 + np.exp(-cells.calibration.scale * raw[:, 0])), atol=1e-5
    )


def test_the_calibration_folds_into_the_last_layer_of_the_network(decided):
    cells = cnnjax.load(decided[0])
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    params = {**cells.params["params"]}
    last = [name for name, layer in params.items() if "kernel" in layer and layer["kernel"].shape[-1] == 1][-1]
    readout = inference.restore(decided[0]).reading.readout
    layer = params[last]
    params[last] = {
        **layer,
        "kernel": layer["kernel"] * readout.scale,
        "bias": layer["bias"] * readout.scale + readout.intercept,
    }
    folded = metrics.probabilities(np.asarray(cells.apply({**cells.params, "params": params}, pixels)))
    np.testing.assert_allclose(folded, cells.predict_proba(pixels), atol=1e-6)


def test_another_prevalence_at_prediction(decided, tmp_path):
    run, config, _ = decided
    paths = [str(Path(config.data.path) / id) for id in table(run, "test")["id"]]
    share = json.loads((run / "calibration.json").read_text())["share"]
    before, after = (cnnjax.load(run, prevalence=prevalence).predict(paths) for prevalence in (None, 0.035))
    odds = [[p.probabilities["Parasitized"] / p.probabilities["Uninfected"] for p in some] for some in (before, after)]
    np.testing.assert_allclose(np.divide(odds[1], odds[0]), 0.035 / 0.965 * (1 - share) / share, rtol=1e-6)
    assert [p.predicted for p in before] == [p.predicted for p in after]  # the threshold moved along
    said = Said()
    predict(run, paths[:2], tmp_path / "out.csv", prevalence=0.035, progress=said)
    assert said.lines[0] == f"probabilities are for a share of 0.035 of the positive class; training had {share:.3g}"
    assert said.lines[1].startswith("Parasitized is called from a probability of 0.") and len(said.lines) == 2
    with pytest.raises(ConfigError, match="between 0 and 1") as error:
        cnnjax.load(run, prevalence=1.0)
    one_line(error)


def test_an_evaluation_with_another_rule_chooses_anew_on_validation_and_all_files_follow(run, without_pictures):
    before = {split: json.loads((run / "eval" / f"{split}.json").read_text()) for split in ("train", "val", "test")}
    said = Said()
    result = evaluate(run, "test", overrides={"evidence.threshold": "specificity:0.9"}, progress=said)
    decision = json.loads((run / "decision.json").read_text())
    assert decision["rule"] == "specificity:0.9" and decision["val"]["specificity"] >= 0.9
    assert "by the rule specificity:0.9 on validation" in said.lines[1] and said.lines[-1].startswith("all numbers in eval/")
    assert result["specificity"] == json.loads((run / "eval" / "test.json").read_text())["specificity"]
    summary = json.loads((run / "summary.json").read_text())
    for split, old in before.items():
        new = json.loads((run / "eval" / f"{split}.json").read_text())
        assert new["loss"] == old["loss"] and new["auc"] == old["auc"] and new["confusion"] != old["confusion"]
        assert summary[split]["specificity"] == new["specificity"]
    assert RunDirectory(run).read_evaluation("test") and cnnjax.load(run).threshold == decision["threshold"]
    evaluate(run, "test", overrides={"evidence.calibration": "none"})  # the rule stays
    assert json.loads((run / "decision.json").read_text())["rule"] == "specificity:0.9"
    assert json.loads((run / "calibration.json").read_text())["method"] == "none"
    evaluate(run, "test", overrides={"evidence.threshold": "0.5"})
    rows = table(run, "test")
    np.testing.assert_array_equal(rows["predicted"] == "Parasitized", rows["z_Uninfected"] <= 0)


def test_what_cannot_be_chosen_is_one_line(run, decided):
    _, config, _ = decided
    for given, match in (
        ({"step": "latest"}, "are chosen at the best step; leave out --step"),
        ({"data": config.data.path}, "own validation, not on"),
    ):
        with pytest.raises(ConfigError, match=match) as error:
            evaluate(run, overrides={"evidence.threshold": "youden"}, **given)
        one_line(error)
    with pytest.raises(
        ConfigError, match="evidence.threshold='best': write a number between 0 and 1, youden, sensitivity:0.95"
    ) as error:
        evaluate(run, overrides={"evidence.threshold": "best"})
    one_line(error)
    with pytest.raises(ConfigError, match=r"cost:10,1'?: needs .*--config.evidence.prevalence=0.035") as error:
        evaluate(run, overrides={"evidence.threshold": "cost:10,1"})
    one_line(error)


def test_a_finished_run_says_that_it_keeps_its_threshold(run, decided):
    _, config, _ = decided
    said = Said()
    train(settings(config.data.path, config.data.cache_dir, evidence__threshold="youden"), run, progress=said)
    assert said.lines[-1] == ("it keeps evidence.threshold=sensitivity:0.9; to choose anew on its validation: --mode=eval "
                              f"--workdir={run} --config.evidence.threshold=youden")  # fmt: skip
    train(config, run, progress=said)
    assert said.lines[-1].endswith("nothing to train")


CHANGES = [("calibration.json", {"scale": float("nan")}), ("calibration.json", {"scale": -1}), ("calibration.json", {"scale": "x"}),
           ("calibration.json", []), ("decision.json", {"threshold": 7}), ("decision.json", {"range": [1]}), ("decision.json", "x")]  # fmt: skip


@pytest.mark.parametrize("name, change", CHANGES)
def test_a_stranger_s_files_that_no_run_writes_are_one_line(run, name, change):
    shutil.rmtree(run / "checksums")  # a stranger makes those fit
    path = run / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if isinstance(change, dict) else change))
    with pytest.raises(CheckpointError, match=f"{name} is damaged") as error:
        cnnjax.load(run)
    one_line(error)


def test_a_calibration_of_another_step_or_split_is_not_used_and_that_is_said(run, tmp_path, decided):
    shutil.rmtree(run / "checksums")
    for name, change in (("calibration.json", {"step": 1}), ("decision.json", {"split_digest": "0" * 64})):
        (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **change}))
    said = Said()
    result = evaluate(run, "test", progress=said)
    assert f"calibration.json is of step 1, and this is step {result['step']}: it is not used" in said.lines[0]
    assert "decision.json is of another split: it is not used" in said.lines[1]
    cells = cnnjax.load(run)
    assert cells.threshold == 0.5 and cells.calibration is None and len(cells.ignored) == 2
    rows = table(run, "test")
    np.testing.assert_allclose(rows["p_Uninfected"], 1 / (1 + np.exp(-rows["z_Uninfected"])), rtol=1e-6)
    with pytest.raises(
        ConfigError, match="needs calibration.json for this checkpoint, which .*--config.evidence.calibration=temperature"
    ) as error:
        cnnjax.load(run, prevalence=0.1)
    one_line(error)


@pytest.mark.parametrize("key, value", [("threshold", "youden"), ("prevalence", 0.1), ("calibration", "platt")])
def test_of_more_than_two_classes_there_is_a_temperature_only(make_folder, tmp_path, key, value):
    folder = make_folder(tmp_path / "flowers", ("a", "b", "c"), 6)
    config = tiny(
        folder,
        tmp_path / "cache",
        data__positive="",
        data__group="",
        split__method="stratified",
        **{f"evidence__{key}": value},
    )
    with pytest.raises(ConfigError, match=f"evidence.{key}={value} is for two classes, and there are 3") as error:
        train(config, tmp_path / "run")
    one_line(error)
    assert not (tmp_path / "run").exists()
