"""Splits: the right shares, no group on two sides, reproducible, and the tutorials' own rules."""

import types
from collections import Counter

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import dataset, splits
from cnnjax.data.sources import Example
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def section(method, **values):
    config = config_lib.default().split
    config.method = method
    for name, value in values.items():
        config[name] = value
    return config


def examples_of(groups, seed=0):
    """`groups`: [(images of class 0, images of class 1), ...]."""
    rng = np.random.default_rng(seed)
    out = []
    for number, counts in enumerate(groups):
        for label, count in enumerate(counts):
            out += [Example(f"{'ab'[label]}/{rng.integers(1e9)}_{i}", label, f"g{number}", "") for i in range(count)]
    return sorted(out, key=lambda e: e.id)


CELLS = [(70, 75), (0, 65), (700, 2), (60, 90), (40, 90), (300, 100)] + [(40 + i, 60 - i // 2) for i in range(30)]


@pytest.mark.parametrize("seed", range(8))
def test_grouped_keeps_groups_whole_and_shares_true(seed):
    examples = examples_of(CELLS)
    assigned = splits.assign(examples, "ab", section("grouped", seed=seed))
    assert splits.shared_groups([e.group for e in examples], assigned) == {}
    for label in (0, 1):
        share = Counter(s for e, s in zip(examples, assigned, strict=True) if e.label == label)
        total = sum(share.values())
        for name, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(share[name] / total - fraction) < 0.04


@pytest.mark.parametrize("seed", range(30))
def test_grouped_never_parts_a_group_whatever_the_groups(seed):
    rng = np.random.default_rng(seed)
    groups = [tuple(rng.geometric(0.05, 2)) for _ in range(rng.integers(3, 80))]
    examples = examples_of(groups, seed)
    assigned = splits.assign(examples, "ab", section("grouped", seed=seed))
    assert splits.shared_groups([e.group for e in examples], assigned) == {}
    assert set(assigned) == {"train", "val", "test"}


@pytest.mark.parametrize("method", ["grouped", "stratified"])
def test_splits_depend_on_the_seed_and_not_on_the_order(method):
    examples = examples_of(CELLS)
    first = dict(zip([e.id for e in examples], splits.assign(examples, "ab", section(method)), strict=True))
    shuffled = [examples[i] for i in np.random.default_rng(1).permutation(len(examples))]
    again = dict(zip([e.id for e in shuffled], splits.assign(shuffled, "ab", section(method)), strict=True))
    other = dict(zip([e.id for e in examples], splits.assign(examples, "ab", section(method, seed=1)), strict=True))
    assert first == again and first != other


def test_stratified_shares_are_exact():
    assigned = splits.assign(examples_of([(200, 40)]), "ab", section("stratified"))
    labels = [e.label for e in examples_of([(200, 40)])]
    assert Counter(zip(labels, assigned, strict=True)) == {
        (0, "train"): 140, (0, "val"): 30, (0, "test"): 30, (1, "train"): 28, (1, "val"): 6, (1, "test"): 6}  # fmt: skip


def test_a_frozen_rule_stays_what_it_was():
    """A changed result means that published splits can no longer be repeated from their seed."""
    examples = [Example(f"{'ab'[i % 2]}/{i:02}", i % 2, f"g{i // 4}", "") for i in range(24)]
    stratified = splits.assign(examples, "ab", section("stratified"))
    assert [e.id for e, s in zip(examples, stratified, strict=True) if s == "test"] == ["a/06", "b/09", "b/11", "a/12"]


def test_tutorial_is_the_first_fifth_of_each_classs_names():
    examples = examples_of([(51, 24)])
    assigned = splits.assign(examples, "ab", section("tutorial", train=0.8, val=0.2, test=0.0))
    for label, count in ((0, 10), (1, 4)):
        ids = sorted(e.id for e in examples if e.label == label)
        val = {e.id for e, s in zip(examples, assigned, strict=True) if s == "val" and e.label == label}
        assert val == set(ids[:count])


def test_tutorial_shuffled_has_the_tutorials_sizes_and_rule():
    counts = (633, 898, 641, 699, 799)
    examples = [Example(f"{c}/{i:04}", c, "", "") for c, n in enumerate(counts) for i in range(n)]
    config = section("tutorial_shuffled", train=0.8, val=0.2, test=0.0, seed=123)
    assigned = splits.assign(examples, "abcde", config)
    assert Counter(assigned) == {"train": 2936, "val": 734}
    # image_dataset_from_directory: RandomState(seed).shuffle(paths), then the last fifth.
    paths = [e.id for e in examples]
    np.random.RandomState(123).shuffle(paths)
    assert {e.id for e, s in zip(examples, assigned, strict=True) if s == "val"} == set(paths[-734:])


def test_official_splits_are_kept_and_completed():
    examples = [Example(f"{part}/{i % 2}/{i:03}", i % 2, "", part) for part in ("train", "test") for i in range(100)]
    assigned = splits.assign(examples, "ab", section("official"))
    assert Counter(zip([e.split for e in examples], assigned, strict=True)) == {
        ("train", "train"): 84, ("train", "val"): 16, ("test", "test"): 100}  # fmt: skip
    with pytest.raises(DataError, match="brings its own train split"):
        splits.assign(examples_of([(5, 5)]), "ab", section("official"))


def test_what_cannot_be_split_is_said():
    with pytest.raises(DataError, match=r"2 groups .g0, g1. cannot be kept apart in 3 splits"):
        splits.assign(examples_of([(9, 9), (9, 9)]), "ab", section("grouped"))
    nameless = [*examples_of(CELLS), Example("a/x", 0, "", "")]
    with pytest.raises(DataError, match="no group for 1 image, such as 'a/x'"):
        splits.assign(nameless, "ab", section("grouped"))
    with pytest.raises(DataError, match="the val split has no image of b"):
        splits.assign(examples_of([(50, 1)]), "ab", section("stratified"))


@pytest.fixture
def prepared(cell_folder, tmp_path):
    def prepare(**overrides):
        values = {"data.path": cell_folder, "data.group": r"^C\d+", "data.cache_dir": tmp_path / "cache", "image.size": 16,
                  "split.method": "grouped"}  # fmt: skip
        config = config_lib.from_dict({}, {**values, **overrides})
        (tmp_path / "run").mkdir(exist_ok=True)
        return dataset.prepare(config, tmp_path / "run", Progress(), freeze=True)

    return types.SimpleNamespace(prepare=prepare, file=tmp_path / "run" / "splits.csv")


def test_the_frozen_file_is_used_again_whatever_the_seed(prepared):
    first = prepared.prepare()
    text = prepared.file.read_text()
    assert text.startswith("id,label,group,split\n") and len(text.splitlines()) == 97
    again = prepared.prepare(**{"split.seed": 5})
    assert prepared.file.read_text() == text
    assert all(np.array_equal(first.splits[name], again.splits[name]) for name in splits.NAMES)


def edit(file, change):
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *change(lines[1:])]) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0].rpartition(",")[0] + ",val" if "train" in rows[0] else rows[0].rpartition(",")[0] + ",train",
                       *rows[1:]], "groups? in more than one split, such as C"),
        (lambda rows: [rows[0].replace(".png", ".jpg"), *rows[1:]], "the data is without 1 image of .*splits.csv"),
        (lambda rows: [rows[0].rpartition(",")[0] + ",tset", *rows[1:]], "the split must be one of train, val, test"),
        (lambda rows: [*rows, rows[0]], "names an image twice"),
        (lambda rows: [rows[0].replace(",Parasitized,", ",Uninfected,"), *rows[1:]], "its folder says otherwise"),
        (lambda rows: [r for r in rows if not r.endswith("val")], "no image for val"),
    ],
)  # fmt: skip
def test_an_edited_file_that_cannot_be_right_is_refused(prepared, change, message):
    prepared.prepare()
    edit(prepared.file, change)
    with pytest.raises(DataError, match=message) as error:
        prepared.prepare()
    assert "\n" not in str(error.value)
