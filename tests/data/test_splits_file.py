"""`splits.csv`: what a person may do to it, and what is refused; and splits of very few groups."""

import csv
import types

import pytest

from cnnjax import config as config_lib
from cnnjax.data import dataset, splits
from cnnjax.data.sources import Example
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def one_line(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def section(seed):
    return config_lib.override(config_lib.default(), {"split.method": "grouped", "split.seed": seed}).split


@pytest.mark.parametrize("groups", range(3, 9))
@pytest.mark.parametrize("seed", range(3))
def test_as_many_groups_as_splits_are_enough(groups, seed):
    examples = [Example(f"{label}/{i}", label, f"g{i % groups}", "") for label in (0, 1) for i in range(10 * groups)]
    assert set(splits.assign(examples, ("0", "1"), section(seed))) == set(splits.NAMES)


@pytest.mark.parametrize("seed", range(6))
def test_huge_group_is_for_training_and_leaves_the_others_for_validation_and_test(seed):
    examples = [Example(f"{label}/{g}_{i}", label, f"g{g}", "") for label in (0, 1) for g, size in enumerate((500, 9, 8, 7))
                for i in range(size)]  # fmt: skip
    assert splits.assign(examples, ("0", "1"), section(seed))[0] == "train"


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
