"""Properties of images, and the columns of a table about them."""

import shutil

import numpy as np
import pytest
from PIL import Image
from training_tools import Said, one_line, read_rows, tiny

import cnnjax
from cnnjax.data.metadata import read_metadata
from cnnjax.data.properties import brightness_and_sharpness
from cnnjax.errors import DataError
from cnnjax.progress import Progress

IDS = ["a/1.png", "a/2.png", "b/1.png", "b/0003.png"]


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def side_lengths(path):
    with Image.open(path) as image:
        return image.size


def test_brightness_and_sharpness_are_those_of_luma():
    images = np.random.default_rng(0).integers(0, 256, (130, 9, 12, 3), np.uint8)
    luma = images @ np.array([0.299, 0.587, 0.114])
    brightness, sharpness = brightness_and_sharpness(images, np.array([129, 0, 64]))
    assert brightness == pytest.approx(luma[[129, 0, 64]].mean((1, 2)), rel=1e-5)
    assert sharpness == pytest.approx(np.abs(np.diff(luma, axis=2))[[129, 0, 64]].mean((1, 2)), rel=1e-5)


def test_an_evaluation_writes_a_row_for_each_image(plain, cell_folder):
    rows = read_rows(plain.workdir / "eval" / "test-properties.csv")
    assert [row["id"] for row in rows] == [row["id"] for row in read_rows(plain.workdir / "eval" / "test.csv")]
    file = cell_folder / rows[3]["id"]
    width, height = side_lengths(file)
    assert rows[3]["longest_side"] == str(max(width, height))
    assert float(rows[3]["bytes_per_pixel"]) == pytest.approx(file.stat().st_size / (width * height), rel=1e-3)
    assert 0 < float(rows[3]["sharpness"]) < float(rows[3]["brightness"]) < 255
    assert not (plain.workdir / "eval" / "train-properties.csv").exists()


def test_an_archive_tells_bytes_too(cell_folder, isolated_cache, tmp_path, without_pictures):
    shutil.make_archive(str(tmp_path / "cells"), "zip", cell_folder)
    cnnjax.train(tiny(tmp_path / "cells.zip", isolated_cache, train__epochs=1), tmp_path / "run")
    row = read_rows(tmp_path / "run" / "eval" / "test-properties.csv")[0]
    file = cell_folder / row["id"]
    assert float(row["bytes_per_pixel"]) == pytest.approx(file.stat().st_size / np.prod(side_lengths(file)), rel=1e-3)


def test_a_table_names_images_by_path_name_stem_or_id(tmp_path):
    said = Said()
    path = table(tmp_path / "m.csv", "site,image,age", "x,a/1.png,7", "y,2,8", "x,b/1,", "z,missing.png,9")
    found = read_metadata(path, IDS, said)
    assert {name: list(column) for name, column in found.items()} == {"site": ["x", "y", "x", ""], "age": ["7", "8", "", ""]}
    assert said.lines == ["  m.csv tells site, age of 3 images", "1 image without a row in m.csv",
                          "1 row of m.csv left out: no image is called 'missing.png'"]  # fmt: skip
    assert read_metadata("", IDS, said) == {}


@pytest.mark.parametrize(("lines", "complaint"), [
    (["image,site", "1.png,x"], "several images are called that"),
    (["image,site", "a/1.png"], "1 values in row 2, and 2 columns"),
    (["image,site", "a/1.png,x", "a/1,y"], "two rows about a/1 that differ"),
    (["image,site", "q.png,x"], "none of 1 row of .* names an image of the data, such as 'a/1.png'"),
    (["image", "a/1.png"], "it needs one of files and others"),
    (["image,site,site", "a/1.png,1,2"], "each of another name"),
    ([""], "is empty|it needs one"),
])  # fmt: skip
def test_a_bad_table_is_one_line(tmp_path, lines, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        read_metadata(table(tmp_path / "m.csv", *lines), IDS, Progress())
    one_line(error)


@pytest.mark.parametrize("path", ["no.csv", "m.xlsx", "gs://bucket/m.csv"])
def test_no_table_is_said_before_training(cell_folder, isolated_cache, tmp_path, path):
    named = path if "://" in path else str(tmp_path / path)
    with pytest.raises(DataError, match="--config.data.metadata=") as error:
        cnnjax.train(tiny(cell_folder, isolated_cache, data__metadata=named), tmp_path / "run")
    one_line(error)
    assert not (tmp_path / "run").exists()


def test_columns_of_a_table_stand_beside_the_properties(cell_folder, plain, tmp_path):
    ids = [row["id"] for row in read_rows(plain.workdir / "splits.csv")]
    path = table(tmp_path / "m.csv", "image,site,brightness", *(f"{id},{i % 2},dark" for i, id in enumerate(ids)))
    run = shutil.copytree(plain.workdir, tmp_path / "run")
    cnnjax.evaluate(run, "val", overrides={"data.metadata": path, "data.cache_dir": plain.config.data.cache_dir})
    rows = read_rows(run / "eval" / "val-properties.csv")
    assert {row["site"] for row in rows} == {"0", "1"} and {row["brightness_"] for row in rows} == {"dark"}
