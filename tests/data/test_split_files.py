"""Splits that come from a table of the user's own."""

import shutil

import pytest
from training_tools import Said, one_line

from cnnjax.commands.describe import describe
from cnnjax.commands.train import train
from cnnjax.data import read_splits
from cnnjax.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def first(make, tmp_path_factory):
    """A finished run whose split others take. Read it only."""
    workdir = tmp_path_factory.mktemp("first") / "run"
    train(make(train__epochs=1), workdir)
    return workdir / "splits.csv"


def free(make, path, **options):
    return make(split__file=str(path), split__method="auto", train__epochs=1, **options)


def test_the_split_of_another_run_is_taken_as_it_is(first, make, tmp_path):
    said = Said()
    train(free(make, first, split__seed=7), tmp_path / "run", progress=said)
    assert (tmp_path / "run" / "splits.csv").read_bytes() == first.read_bytes()
    assert f"  the images are divided by {first} (split.file)" in said.lines
    gone = shutil.copy(first, tmp_path / "moved.csv")
    train(free(make, gone, split__seed=7), tmp_path / "run")  # finished: the file is not asked again
    (tmp_path / "plan").mkdir()
    assert f"the images are divided by {first} (split.file)" in describe(free(make, first), tmp_path / "plan")


def test_a_table_of_two_columns_in_other_words_and_order_divides(first, make, tmp_path):
    rows = [(split, id) for id, _, _, split in read_splits(first)]
    words = {"train": "Training", "val": "validation", "test": "TEST"}
    (tmp_path / "own.tsv").write_text("Split\tpath\n" + "".join(f"{words[split]}\t{id}\n" for split, id in rows[::-1]))
    train(free(make, tmp_path / "own.tsv"), tmp_path / "run")
    assert (tmp_path / "run" / "splits.csv").read_bytes() == first.read_bytes()


def test_what_does_not_match_is_told_and_left_out(first, make, tmp_path):
    lines = first.read_text().splitlines()
    gone = next(line for line in lines[1:] if line.endswith("train"))
    lines.remove(gone)
    (tmp_path / "own.csv").write_text("\n".join([*lines, "Parasitized/unknown.png,Parasitized,,test"]))
    said = Said()
    train(free(make, tmp_path / "own.csv"), tmp_path / "run", progress=said)
    assert f"1 image left out, not in {tmp_path / 'own.csv'}" in said.lines
    assert f"1 image of {tmp_path / 'own.csv'} is not in the data, such as 'Parasitized/unknown.png'" in said.lines
    assert gone.partition(",")[0] not in read_splits(tmp_path / "run" / "splits.csv").ids


@pytest.mark.parametrize(("text", "said"), [
    ("id,weight\na,1\n", "has the columns id, weight; it needs id and split"),
    ("id,split\nnone.png,train\n", "names no image of the data: it has 'none.png', the data has '"),
    ("id,split\nnone.png,later\n", "has 'later' for 'none.png'; write train, val or test"),
    ("id,split\na.png,train\na.png,test\n", "has 'a.png' in train and in test; leave one row"),
])  # fmt: skip
def test_a_table_that_divides_nothing_is_one_line(make, tmp_path, text, said):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(DataError) as error:
        train(free(make, tmp_path / "own.csv"), tmp_path / "run")
    assert said in one_line(error) and not (tmp_path / "run").exists()


def test_a_class_or_a_validation_part_that_is_missing_is_one_line(first, make, tmp_path):
    for word, said in ((",val", "no image in val"), ("Uninfected,C", "the train split has no image of Uninfected")):
        kept = [line for line in first.read_text().splitlines() if word not in line]
        (tmp_path / "own.csv").write_text("\n".join(kept))
        with pytest.raises(DataError, match=said):
            train(free(make, tmp_path / "own.csv"), tmp_path / "run")


def test_a_file_that_is_not_there_or_a_method_beside_it_is_one_line(make, tmp_path):
    with pytest.raises(DataError, match="no such file; name a table with the columns id and split"):
        train(free(make, tmp_path / "none.csv"), tmp_path / "run")
    with pytest.raises(ConfigError, match="leave one out"):
        make(split__file="a.csv")


def test_classes_below_the_folders_of_patients_are_found_by_their_level(cell_folder, make, tmp_path):
    for path in cell_folder.rglob("*.png"):
        place = tmp_path / "set" / path.name.split("P")[0] / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    train(make(data__path=str(tmp_path / "set"), data__class_level=2, data__group="", train__epochs=1), tmp_path / "run")
    rows = list(read_splits(tmp_path / "run" / "splits.csv"))
    assert len(rows) == 96 and all(id.split("/")[:2] == [group, label] for id, label, group, _ in rows)
    with pytest.raises(DataError, match="data.class_level=3: it finds no class"):
        train(
            make(data__path=str(tmp_path / "set"), data__class_level=3, data__group="", train__epochs=1), tmp_path / "other"
        )
