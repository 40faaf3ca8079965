"""Sources of every kind, and paths and names that cannot be one or are odd."""

import pytest
from source_tools import listed, opened, pack, section

from cnnjax.data import sources
from cnnjax.errors import DataError
from cnnjax.progress import Progress


def damaged_zip(path, cell_folder):
    data = pack(cell_folder, path / "x.zip").read_bytes()
    (path / "damaged.zip").write_bytes(data[: len(data) // 2])
    return path / "damaged.zip"


def one_class(path, cell_folder):
    (path / "one" / "cats").mkdir(parents=True)
    (path / "one" / "cats" / "1.png").write_bytes(b"x")
    return path / "one"


def empty(path, cell_folder):
    for name in "ab":
        (path / "empty" / name).mkdir(parents=True)
    return path / "empty"


def text(path, cell_folder):
    (path / "text.zip").write_text("this is text")
    return path / "text.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, c: p / "missing", "no such folder or archive: .*--config.data.path"),
        (damaged_zip, "cut or damaged .*get it again"),
        (one_class, "one class folder only .cats.*two or more"),
        (empty, "no files in class folders.*two or more"),
        (text, "neither a folder nor an archive"),
    ],
)
def test_what_cannot_be_a_source_is_said_in_one_line(make, message, tmp_path, cell_folder):
    with pytest.raises(DataError, match=message) as error:
        opened(make(tmp_path, cell_folder))
    assert "\n" not in str(error.value)


def test_digits_and_demo():
    digits = sources.open_source(section("", source="digits"), Progress())
    assert len(digits.examples) == 1797 and digits.classes == tuple("0123456789")
    index, reference = next(iter(digits.stream()))
    assert reference.read().shape == (8, 8) and digits.examples[index].id.startswith(f"{digits.examples[index].label}/")
    demo = sources.open_source(section("", source="demo", group=r"^C\d+", demo_cells=100), Progress())
    assert len(demo.examples) == 100 and len({e.group for e in demo.examples}) == 40
    assert next(iter(demo.stream()))[1].read().startswith(b"\x89PNG")


def test_the_real_archives(shared_data):
    cells = opened(shared_data / "cell_images.zip", group=r"^C\d+")
    assert cells.classes == ("Parasitized", "Uninfected") and len(cells.examples) == 7438  # without two Thumbs.db
    assert len({e.group for e in cells.examples} - {""}) == 52
    assert len(opened(shared_data / "flower_photos.tgz").examples) == 2560


@pytest.mark.parametrize("source, has", [("demo", "Parasitized, Uninfected"), ("digits", "0, 1, 2")])
def test_classes_that_a_source_without_folders_does_not_have_are_refused(source, has):
    with pytest.raises(DataError, match=f"data.classes=Parasitized, but .* always has {has}.*--config.data.classes="):
        opened("", source=source, classes=("Parasitized",))


def test_an_expression_that_finds_no_group_is_told(make_folder, tmp_path):
    folder = make_folder(tmp_path / "x", per_class=3)
    (line,) = listed(folder, group="^Patient").warnings
    assert line.startswith("data.group=^Patient matches in no name, such as 'Parasitized/C") and line.endswith(
        "there are no groups"
    )


def test_classes_with_almost_the_same_name_are_named(tmp_path):
    for name in ("Cat", "cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert listed(tmp_path).warnings == (
        "'Cat' and 'cat' are different classes with almost the same name; give them one name if they are one",
    )


def test_group_of_the_demo_is_the_bracket_too():
    with_bracket = listed("", source="demo", demo_cells=60, group=r"^C(\d+)P")
    assert all(example.group.isdigit() for example in with_bracket.examples)
