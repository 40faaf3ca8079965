"""Splits: right shares, no group on two sides, reproducible, the tutorials' own rules; and `splits.csv`, edited by a person."""

import csv
import types
from collections import Counter

import numpy as np
import pytest

from cnnjax import config as config_lib
from cnnjax.data import dataset, splits
from cnnjax.data.examples import Example
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


PARTED = [Example(f"{part}/{i % 2}/{i:03}", i % 2, "", part) for part in ("train", "test") for i in range(100)]
GROUPED = examples_of(CELLS)
PLAIN = [Example(f"{i % 2}/{i:03}", i % 2, "", "") for i in range(100)]


@pytest.mark.parametrize(("examples", "method", "said"), [
    (PARTED, "official", "the images are divided by the set's own parts, train, test; val, which it does not bring, is cut from train"),
    (GROUPED, "grouped", "the images are divided by whole groups (split.method=auto)"),
    (PLAIN, "stratified", "the images are divided by class (split.method=auto)"),
])  # fmt: skip
def test_auto_takes_what_the_set_has_and_says_so(examples, method, said):
    assert config_lib.default().split.method == "auto"
    assigned = splits.assign(examples, "ab", section("auto"))
    assert assigned == splits.assign(examples, "ab", section(method))
    assert splits.reason(section("auto"), examples, sorted({*assigned})) == said


def test_a_missing_part_is_cut_in_whole_groups_where_there_are_any():
    examples = [Example(f"train/{i % 2}/P{i // 4}_{i}", i % 2, f"P{i // 4}", "train") for i in range(120)]
    examples += [Example(f"test/{i % 2}/Q{i // 4}_{i}", i % 2, f"Q{i // 4}", "test") for i in range(40)]
    assigned = splits.assign(examples, "ab", section("auto"))
    assert splits.shared_groups([e.group for e in examples], assigned) == {} and 12 <= assigned.count("val") <= 24


def test_parts_that_are_not_used_are_named():
    said = splits.reason(section("stratified"), PARTED, splits.NAMES)
    assert said.endswith("by class; the set's own parts are not used, --config.split.method=official uses them")


def test_what_cannot_be_split_is_said():
    with pytest.raises(DataError, match=r"2 groups .g0, g1. cannot be kept apart in 3 splits"):
        splits.assign(examples_of([(9, 9), (9, 9)]), "ab", section("grouped"))
    nameless = [*examples_of(CELLS), Example("a/x", 0, "", "")]
    with pytest.raises(DataError, match="no group for 1 image, such as 'a/x'"):
        splits.assign(nameless, "ab", section("grouped"))
    strange = [*PARTED, Example("test/2/000", 2, "", "test")]
    with pytest.raises(
        DataError, match=r"the train split has no image of c .*; leave them out with --config.data.classes=a,b, or"
    ):
        splits.assign(strange, "abc", section("auto"))
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


def one_line(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def grouped(seed):
    return config_lib.override(config_lib.default(), {"split.method": "grouped", "split.seed": seed}).split


@pytest.mark.parametrize("groups", range(3, 9))
@pytest.mark.parametrize("seed", range(3))
def test_as_many_groups_as_splits_are_enough(groups, seed):
    examples = [Example(f"{label}/{i}", label, f"g{i % groups}", "") for label in (0, 1) for i in range(10 * groups)]
    assert set(splits.assign(examples, ("0", "1"), grouped(seed))) == set(splits.NAMES)


@pytest.mark.parametrize("seed", range(6))
def test_huge_group_is_for_training_and_leaves_the_others_for_validation_and_test(seed):
    examples = [Example(f"{label}/{g}_{i}", label, f"g{g}", "") for label in (0, 1) for g, size in enumerate((500, 9, 8, 7))
                for i in range(size)]  # fmt: skip
    assert splits.assign(examples, ("0", "1"), grouped(seed))[0] == "train"


def test_written_split_is_read_back(tmp_path):
    examples = [Example('a/x,"y"\n.png', 0, "g", ""), Example("b/Zoë 图.png", 1, "", "")]
    splits.write(tmp_path / "splits.csv", examples, ["train", "val"], ("a", "b"))
    assert list(splits.read(tmp_path / "splits.csv")) == [
        ('a/x,"y"\n.png', "a", "g", "train"), ("b/Zoë 图.png", "b", "", "val")]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]
    assert (tmp_path / "splits.csv").read_text(encoding="utf-8").splitlines()[0] == "id,label,group,split"


def test_split_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_bytes(b"\xef\xbb\xbfid,label,group,split\r\na/1.png,a,,train\r\n")
    assert list(splits.read(path)) == [("a/1.png", "a", "", "train")]


@pytest.mark.parametrize("content", [b"", b"a,b\n", b"\xff\xfe\x00i", b"id,label,group,split\n1,a,,valid\n",
                                     b"id,label,group,split\n1,a,train\n"])  # fmt: skip
def test_file_that_is_no_split_is_refused(tmp_path, content):
    (tmp_path / "splits.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        splits.read(tmp_path / "splits.csv")
    assert str(tmp_path) in one_line(error)


@pytest.fixture
def run(cell_folder, tmp_path):
    """A run directory with a frozen split: `prepare(**overrides)` opens it, `rows` and `save` edit the file."""

    class Notes(Progress):
        def __init__(self):
            self.lines = []

        def warn(self, text):
            self.lines.append(text)

    notes = Notes()
    workdir = tmp_path / "run"
    path = workdir / "splits.csv"

    def prepare(**overrides):
        values = {"data.path": str(cell_folder), "data.cache_dir": str(tmp_path / "cache"), "data.group": r"^C\d+",
                  "split.method": "grouped", "image.size": 8, **overrides}  # fmt: skip
        config = config_lib.finish(config_lib.override(config_lib.default(), values))
        return dataset.prepare(config, workdir, notes, freeze=True)

    def rows():
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def save(new):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ("id", "label", "group", "split"))
            writer.writeheader()
            writer.writerows(new)

    prepare()
    return types.SimpleNamespace(prepare=prepare, rows=rows, save=save, path=path, notes=notes.lines)


def test_group_on_two_sides_of_an_edited_split_is_refused(run):
    rows = run.rows()
    train = next(row for row in rows if row["split"] == "train")
    train["split"] = "test"
    run.save(rows)
    with pytest.raises(DataError, match=f"{train['group']} in test and train") as error:
        run.prepare()
    assert "workdir" in one_line(error)


def test_group_on_two_sides_is_refused_also_where_the_file_does_not_say_so(run):
    rows = [{**row, "group": ""} for row in run.rows()]
    run.save(rows)
    run.prepare()  # nothing is mixed yet
    next(row for row in rows if row["split"] == "train")["split"] = "val"
    run.save(rows)
    with pytest.raises(DataError, match="more than one split"):
        run.prepare()


def test_images_that_the_split_lacks_are_left_out_with_a_note(run):
    rows = run.rows()
    run.save(rows[2:])
    run.notes.clear()
    data = run.prepare()
    assert sum(map(len, data.splits.values())) == len(rows) - 2
    assert len(run.notes) == 1 and run.notes[0].startswith("2 images left out, not in")


def test_images_that_the_data_lacks_are_named(run):
    run.save([*run.rows(), {"id": "Uninfected/gone.png", "label": "Uninfected", "group": "C1", "split": "train"}])
    with pytest.raises(DataError, match=r"without 1 image of .*'Uninfected/gone.png'") as error:
        run.prepare()
    assert "data.path" in one_line(error)


def test_image_named_twice_is_refused(run):
    rows = run.rows()
    run.save([*rows, rows[0]])
    with pytest.raises(DataError, match="twice") as error:
        run.prepare()
    one_line(error)
