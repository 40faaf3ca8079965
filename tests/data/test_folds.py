"""Folds: whole groups, every image once, equal shares of every class; frozen, and refused for other data."""

import shutil
from collections import Counter

import numpy as np
import pytest
from training_tools import Said, one_line, settings

from cnnjax.data import prepare_folds, read_folds
from cnnjax.errors import CheckpointError, ConfigError, DataError
from cnnjax.progress import Progress
from cnnjax.runs import RunDirectory


@pytest.fixture
def fold(cell_folder, cache, tmp_path):
    """prepare_folds on the cells of 12 patients; keywords are config values."""

    def prepared(workdir=tmp_path, progress=None, **values):
        defaults = {"data__path": str(cell_folder), "data__cache_dir": str(cache), "data__group": r"^C\d+", "image__size": 8}
        return prepare_folds(settings(**{**defaults, **values}), workdir, progress or Progress(), freeze=True)

    return prepared


def test_every_image_is_tested_once_and_no_group_is_on_two_sides(fold):
    folds = fold(split__folds=4)
    tested = Counter()
    for name in folds.names:
        sides = {}
        for id, _, group, split in folds.split(*name):
            sides.setdefault(split, set()).add(group)
            tested[id] += split == "test"
        assert not sides["test"] & sides["train"] and not sides["val"] & sides["train"] and not sides["test"] & sides["val"]
        assert len(sides["train"]) == 6 and len(sides["val"]) == len(sides["test"]) == 3
    assert len(folds.names) == 4 and set(tested.values()) == {1} and len(tested) == 96


def test_folds_have_the_same_share_of_every_class(fold):
    folds = fold(split__folds=3)
    counts = Counter((part, label) for part, label in zip(folds.parts[0].tolist(), folds.labels, strict=True))
    assert set(counts.values()) == {16}


def test_without_groups_the_images_of_each_class_are_divided(fold):
    progress = Said()
    folds = fold(split__folds=5, data__group="", progress=progress)
    counts = Counter((part, label) for part, label in zip(folds.parts[0].tolist(), folds.labels, strict=True))
    assert set(counts.values()) <= {9, 10} and max(Counter(folds.parts[0].tolist()).values()) == 20
    assert [line for line in progress.lines if "images of each class are divided into 5 folds" in line]


def test_repeats_are_divided_anew_and_more_of_them_leave_the_first_as_they_are(fold, tmp_path):
    one = fold(split__folds=3)
    first = (tmp_path / "folds.csv").read_text()
    three = fold(split__folds=3, split__repeats=3)
    assert np.array_equal(one.parts, three.parts[:1]) and not np.array_equal(three.parts[0], three.parts[1])
    assert (tmp_path / "folds.csv").read_text().startswith(first)
    assert np.array_equal(fold(tmp_path / "other", split__folds=3, split__repeats=3).parts, three.parts)


def test_the_file_is_read_back_and_says_what_the_folds_are(fold, tmp_path):
    folds, read = fold(split__folds=3, split__repeats=2), read_folds(RunDirectory(tmp_path))
    assert np.array_equal(folds.parts, read.parts) and list(folds.ids) == read.ids and list(folds.groups) == read.groups
    assert read.count == 3
    header, row, *_ = (tmp_path / "folds.csv").read_text().splitlines()
    assert header == "id,group,repeat,fold" and row == f"{folds.ids[0]},{folds.groups[0]},0,{folds.parts[0][0]}"


@pytest.mark.parametrize(("values", "error", "said"), [
    ({"split__folds": 13}, DataError, "12 groups cannot be kept apart in 13 folds; use --config.split.folds=12, or fewer"),
    ({"data__group": r"^C1P"}, DataError, "no group for 88 images"),
    ({"split__method": "official"}, ConfigError, "split.method='official' divides the images, and so would --mode=crossvalidate"),
    ({"split__file": "x.csv"}, ConfigError, "split.file='x.csv' divides the images"),
])  # fmt: skip
def test_what_cannot_be_divided_is_one_line(fold, tmp_path, values, error, said):
    with pytest.raises(error) as raised:
        fold(**values)
    assert said in one_line(raised) and not (tmp_path / "folds.csv").exists()


def test_a_class_that_is_missing_in_a_fold_is_one_line(make_folder, cache, tmp_path):
    folder = make_folder(tmp_path / "cells", per_class=10)
    for path in sorted((folder / "Uninfected").iterdir())[4:]:
        path.unlink()
    config = settings(data__path=str(folder), data__cache_dir=str(cache), image__size=8)
    with pytest.raises(
        DataError, match="has no image of Uninfected, of which there are 4 images; use --config.split.folds=4, or fewer"
    ) as error:
        prepare_folds(config, tmp_path / "cv", Progress(), freeze=True)
    one_line(error)


def test_other_folds_and_other_data_are_refused(fold, cell_folder, tmp_path):
    fold(split__folds=3)
    with pytest.raises(DataError, match="has 3 folds and 1 repeat, the config 4 and 1; use another --workdir") as error:
        fold(split__folds=4)
    one_line(error)
    less = shutil.copytree(cell_folder, tmp_path / "less")
    next((less / "Uninfected").iterdir()).unlink()
    with pytest.raises(DataError, match="the data is without 1 image of .*folds.csv, such as 'Uninfected/C") as error:
        fold(split__folds=3, data__path=str(less))
    one_line(error)


@pytest.mark.parametrize("text", ["id,split\na,test\n", "id,group,repeat,fold\n", "id,group,repeat,fold\na,,0,x\n", "id,group,repeat,fold\na,,0\n",
                                  "id,group,repeat,fold\na,,0,0\nb,,2,1\n"])  # fmt: skip
def test_a_damaged_file_is_one_line(fold, tmp_path, text):
    fold(split__folds=3)
    run = RunDirectory(tmp_path)
    run.folds_table.write_text(text)
    with pytest.raises(CheckpointError, match="is not as it was written"):
        read_folds(run)
    shutil.rmtree(run.checksums)
    with pytest.raises(DataError, match="folds.csv is damaged; restore it") as error:
        read_folds(run)
    one_line(error)
