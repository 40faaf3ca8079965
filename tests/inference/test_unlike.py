"""Images unlike those of the training: the distance, its self-check, and the warning when predicting."""

import json
import shutil

import numpy as np
import pytest
from page_tools import text
from PIL import Image
from training_tools import Said, one_line, read_rows, tiny

import cnnjax
from cnnjax.commands.predict import predict
from cnnjax.data import Dataset, pixel_statistics
from cnnjax.errors import CheckpointError
from cnnjax.inference import unlike as lib
from cnnjax.runs import RunDirectory, read_typical


def discs(count: int, seed: int = 0) -> np.ndarray:
    """Pink discs on black that differ a little, uint8 [count, 16, 16, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    radius = rng.uniform(5, 7, (count, 1, 1))
    inside = ((y - 7.5) ** 2 + (x - 7.5) ** 2 < radius**2)[..., None]
    colour = rng.normal((205, 150, 165), 10, (count, 3))[:, None, None]
    return np.clip(inside * colour + rng.normal(8, 4, (count, 16, 16, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def own(make, tmp_path_factory):
    """A run with enough validation images for a threshold."""
    workdir = tmp_path_factory.mktemp("runs") / "own"
    return cnnjax.train(make(train__epochs=1, split__train=0.4, split__val=0.6, split__test=0.0), workdir)


@pytest.fixture(scope="module")
def fitted():
    return lib.fit_typical(discs(400), discs(300, 1))


def test_the_distance_is_mahalanobis_and_one_in_a_hundred_of_validation_is_above_it(fitted):
    measured, val = pixel_statistics(discs(400)), discs(300, 1)
    covariance = np.cov(measured, rowvar=False)
    covariance += (1e-3 * np.trace(covariance) / 18 + 1e-12) * np.eye(18)
    away = pixel_statistics(val) - measured.mean(0)
    squared = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    found = lib.unlike(fitted)(val)
    assert found == pytest.approx(squared / np.quantile(squared, 0.99), rel=1e-6)
    assert (found > 1).sum() == 3 and fitted.usual == "3 of 300 validation images"
    assert (lib.unlike(fitted)(discs(1000, 2)) > 1).mean() < 0.05


def test_probes_of_plain_images_are_caught_and_those_of_pictures_that_vary_are_not(fitted):
    assert set(fitted.caught) == set(lib.PROBES) and fitted.can_tell
    assert fitted.caught["inverted"] == fitted.caught["handwritten digits"] == fitted.caught["noise alone"] == 1
    rng = np.random.default_rng(0)

    def anything(count):
        low, high = np.sort(rng.integers(0, 256, (2, count, 1, 1, 3)), 0)
        return rng.integers(low, high + 1, (count, 16, 16, 3)).astype(np.uint8)

    photos = lib.fit_typical(anything(400), anything(100))
    assert not photos.can_tell and len(photos.found) < 4


def test_a_probe_that_changes_nothing_is_left_out():
    grey = np.repeat(discs(100)[..., :1], 3, -1)
    assert set(lib.PROBES) - set(lib.fit_typical(grey[:50], grey[50:]).caught) == {
        "without colour",
        "red and blue exchanged",
    }


def test_images_that_are_all_the_same_have_a_distance():
    same = np.full((50, 16, 16, 3), 7, np.uint8)
    found = lib.unlike(lib.fit_typical(same, same))(np.concatenate([same[:1], discs(1)]))
    assert found[0] <= 1 < found[1] and np.isfinite(found).all()


def test_few_images_are_a_reason_in_words(tmp_path):
    said, few = Said(), Dataset(discs(30), None, None, None, (), {"train": np.arange(20), "val": np.arange(5)}, {}, [], None)
    lib.write_typical(RunDirectory(tmp_path), few, said)
    assert said.lines == ["  20 training and 5 validation images are too few to tell which others are unlike them (it takes 36 and 50): "
                          "prediction will not warn"]  # fmt: skip
    assert read_typical(RunDirectory(tmp_path)) is None


def test_prediction_tells_and_warns(own, cell_folder, tmp_path):
    typical = read_typical(RunDirectory(own.workdir))
    assert typical.can_tell and typical.caught["inverted"] == 1
    splits = read_rows(own.workdir / "splits.csv")
    cells = [str(cell_folder / row["id"]) for row in splits if row["split"] == "train"][:5]
    for name, level in (("white", 255), ("half", 128)):
        Image.new("RGB", (40, 40), (level, 255, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"")
    others = [str(tmp_path / name) for name in ("white.png", "half.png", "broken.png")]
    said = Said()
    predict(own.workdir, [*cells, *others], tmp_path / "out.csv", progress=said)
    rows = {row["path"]: row["unlike"] for row in read_rows(tmp_path / "out.csv")}
    assert all(float(rows[path]) < 1 for path in cells) and float(rows[others[0]]) > 1 < float(rows[others[1]])
    assert rows[others[2]] == ""
    usual = f"1 of {own.val['images']} validation images"
    assert said.lines == [
        f"2 of 7 images are unlike the training images (unlike above 1, as {usual}): do not rely on their classes"
    ]
    found = cnnjax.load(own.workdir).predict([cells[0], others[0], others[2]])
    assert [p.unlike for p in found] == [pytest.approx(float(rows[cells[0]])), pytest.approx(float(rows[others[0]])), None]


@pytest.fixture
def run(own, tmp_path):
    """A copy of a finished run without checksums."""
    copied = RunDirectory(shutil.copytree(own.workdir, tmp_path / "run"))
    shutil.rmtree(copied.checksums)
    return copied


def test_the_warning_is_off_where_probes_are_not_caught_and_older_runs_say_nothing(run, tmp_path):
    Image.new("RGB", (40, 40), "white").save(tmp_path / "a.png")
    tree = json.loads(run.typical.read_text())
    run.typical.write_text(json.dumps({**tree, "caught": dict.fromkeys(tree["caught"], 0.5)}))
    said = Said()
    predict(run.path, [str(tmp_path / "a.png")], tmp_path / "out.csv", progress=said)
    assert said.lines == [
        "no warning of images unlike the training images: of 8 probes it catches 0 on this data (see the report)"
    ]
    assert float(read_rows(tmp_path / "out.csv")[0]["unlike"]) > 1
    run.typical.unlink()
    said = Said()
    predict(run.path, [str(tmp_path / "a.png")], tmp_path / "older.csv", progress=said)
    assert said.lines == [] and "unlike" not in read_rows(tmp_path / "older.csv")[0]


@pytest.mark.parametrize("change", [
    {"mean": [0.0] * 17}, {"covariance": [0.0] * 170}, {"covariance": [0.0] * 171}, {"threshold": 0}, {"threshold": None}, {"mean": [1e999] * 18},
    {"caught": {"a": 2.0}}, {"caught": []}, {"covariance": [-1.0] * 171}, {"images": "many"}, {"validation": 0},
])  # fmt: skip
def test_a_strangers_file_is_one_line(run, change):
    run.typical.write_text(json.dumps({**json.loads(run.typical.read_text()), **change}))
    with pytest.raises(CheckpointError, match="typical.json") as error:
        cnnjax.load(run.path)
    one_line(error)


def test_extreme_numbers_of_a_stranger_are_a_number(run):
    tree = json.loads(run.typical.read_text())
    small = np.zeros((18, 18))
    small[np.diag_indices(18)] = 1e-300
    run.typical.write_text(json.dumps({**tree, "covariance": small[np.triu_indices(18)].tolist(), "threshold": 1e-300}))
    assert cnnjax.load(run.path).predict(np.zeros((9, 9, 3), np.uint8))[0].unlike == 1e6


def test_the_report_tells_what_is_caught(own):
    page = text(own.workdir / "report.html")
    assert "Share caught of each probe" in page and "handwritten digits 100 %" in page


def test_a_set_of_few_images_trains(make_folder, isolated_cache, tmp_path, without_pictures):
    folder = make_folder(tmp_path / "few", per_class=10)
    cnnjax.train(tiny(folder, isolated_cache, train__epochs=1), tmp_path / "run")
    assert not RunDirectory(tmp_path / "run").typical.exists()
