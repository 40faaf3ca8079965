"""Changes of images and what they cost."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from page_tools import text
from PIL import Image
from training_tools import one_line

import cnnjax
from cnnjax.errors import CheckpointError
from cnnjax.inference.corruptions import CORRUPTIONS
from cnnjax.pages import robustness_text
from cnnjax.pages.subgroups import subgroups_section
from cnnjax.runs import Robustness, RunDirectory, read_robustness

IMAGES = np.random.default_rng(0).integers(60, 180, (5, 12, 15, 3), np.uint8)


def changed(name, strength, images=IMAGES):
    result = CORRUPTIONS[name].change(images, strength, 0)
    assert result.dtype == np.uint8 and result.shape == images.shape
    return result.astype(float)


def test_light_and_contrast_are_factors():
    assert np.abs(changed("brightness", 1.3) - IMAGES * 1.3).max() <= 0.5
    assert np.abs(changed("brightness", 1.0) - IMAGES).max() == 0
    assert changed("contrast", 0.7).std() == pytest.approx(0.7 * IMAGES.std(), rel=0.02)


def test_noise_has_its_deviation_and_comes_again():
    flat = np.full((20, 16, 16, 3), 128, np.uint8)
    assert changed("noise", 10.0, flat).std() == pytest.approx(10, rel=0.03)
    assert (changed("noise", 10.0, flat) == changed("noise", 10.0, flat)).all()


def test_blur_half_resolution_and_jpeg_lose_detail_and_keep_the_mean():
    for name, strength in (("blur", 1.0), ("resolution", 0.5), ("jpeg", 20.0)):
        after = changed(name, strength)
        assert after.std() < IMAGES.std() and abs(after.mean() - IMAGES.mean()) < 3
    file = io.BytesIO()
    Image.fromarray(IMAGES[2]).save(file, "jpeg", quality=50)
    assert (changed("jpeg", 50.0)[2] == np.asarray(Image.open(file))).all()


def test_hue_turns_red_towards_yellow():
    red = np.full((1, 4, 4, 3), (200, 0, 0), np.uint8)
    assert changed("hue", 15.0, red)[0, 0, 0].tolist() == [200, 50, 0] and changed("hue", -15.0, red)[0, 0, 0].tolist() == [
        200,
        0,
        50,
    ]


@pytest.fixture
def run(plain, tmp_path):
    return RunDirectory(shutil.copytree(plain.workdir, tmp_path / "run"))


def test_a_run_of_two_classes_is_measured_and_shown(plain, run):
    result = cnnjax.robustness(run, overrides={"data.cache_dir": plain.config.data.cache_dir})
    assert result == read_robustness(run, "test")
    assert result.images == result.of == plain.summary["test"]["images"] and result.positive == "Parasitized"
    for name in ("accuracy", "sensitivity", "specificity"):
        assert result.clean[name].value == pytest.approx(plain.summary["test"][name])
    assert len(result.rows) == 13 and {row.name for row in result.rows} >= {"noise of 10 levels", "JPEG of quality 20"}
    for row in result.rows:
        assert row.changes["accuracy"].value == pytest.approx(row.scores["accuracy"].value - result.clean["accuracy"].value)
    costs = [row.changes["accuracy"].value for row in result.worst_first]
    assert costs == sorted(costs)
    json.loads(run.robustness("test").read_text(), parse_constant=pytest.fail)
    cnnjax.write_report(run)
    page = text(run.report)
    assert "Robustness" in page and "The same images of test after each change, all" in page


def scored(value, low=None, high=None, **more):
    return {"value": value, "low": low, "high": high, **more}


def tree(clean=0.96, **more):
    row = {
        "name": "noise of 10 levels",
        "scores": {"accuracy": scored(0.74)},
        "changes": {"accuracy": scored(-0.22, -0.25, -0.19)},
    }
    return {
        "split": "test",
        "step": 1,
        "images": 10,
        "of": 20,
        "level": 0.95,
        "positive": "",
        "threshold": 0.5,
        "clean": {"accuracy": scored(clean)},
        "rows": [row],
        **more,
    }


def test_a_cost_is_told_in_words():
    lines = robustness_text(Robustness.from_dict(tree()))
    assert "noise of 10 levels costs 22 points of accuracy (19 to 25)." in lines and re.search(
        r"levels +0.7400 +-22.0 +-25.0 to -19.0", lines
    )
    none = Robustness.from_dict(tree(rows=[]))
    assert "none of these changes costs a point of accuracy." in robustness_text(none)


@pytest.mark.parametrize(
    "change",
    [
        {"clean": {"accuracy": {"value": 1e999}}},
        {"clean": {}},
        {"rows": [{}]},
        {"step": "x"},
        {"rows": [{**tree()["rows"][0], "scores": {}}]},
    ],
)
def test_a_strangers_file_is_one_line(tmp_path, change):
    run = RunDirectory(tmp_path)
    run.write_json(run.robustness("test"), tree(**change))
    with pytest.raises(CheckpointError, match="test-robustness.json is damaged") as error:
        read_robustness(run, "test")
    one_line(error)


def test_subgroups_are_told_in_words():
    whole = {
        "column": "",
        "value": "all images",
        "count": 90,
        "effective": 40.0,
        "differs": [],
        "accuracy": scored(0.95, 0.94, 0.96),
    }
    dark = {
        **whole,
        "column": "brightness",
        "value": "3 to 80",
        "differs": ["accuracy"],
        "accuracy": scored(0.844, 0.8, 0.88),
    }
    section = subgroups_section([whole, dark])
    assert section.blocks[0].text == "Brightness 3 to 80: accuracy 0.844 (0.800 to 0.880), of all images 0.950."
    assert section.blocks[0].warning and section.blocks[-1].rows[1][:3] == ("brightness", "3 to 80", "differs")
    assert subgroups_section([whole]).blocks == []
