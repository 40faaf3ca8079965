"""Images to predict by what people name: files, folders, archives, tables."""

import shutil
import tarfile
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from cnnjax.data import find_inputs
from cnnjax.errors import DataError


def names(*given):
    """The names of the inputs, each of which can be read."""
    found = find_inputs(map(str, given))
    listed = [(name, reference.read()) for name, reference in found.stream()]
    assert len(listed) == found.count == len(list(found.stream()))
    assert all(content.startswith(b"\x89PNG") for _, content in listed)
    return [name for name, _ in listed]


def test_files_folders_and_globs_are_found_once_and_sorted(cell_folder, tmp_path):
    files = sorted(map(str, cell_folder.rglob("*.png")))
    assert names(cell_folder) == names(f"{cell_folder}/*/*.png", files[0]) == names(f"{cell_folder}/**/*.png") == files
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cells").symlink_to(cell_folder)
    (linked / "cells-again").symlink_to(linked)
    assert len(names(linked)) == len(files)
    for nothing in (f"{tmp_path}/none*.png", tmp_path / "none", tmp_path / "none.csv"):
        with pytest.raises(DataError, match="no such file, folder, archive or table with files"):
            find_inputs([str(nothing)])


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_pictures_of_an_archive_are_its_members(cell_folder, tmp_path, kind):
    archive = tmp_path / f"cells.{kind}"
    (tmp_path / "notes.txt").write_text("not a picture")
    files = sorted(cell_folder.rglob("*.png"))
    with zipfile.ZipFile(archive, "w") if kind == "zip" else tarfile.open(archive, "w:gz" if kind == "tgz" else "w") as out:
        add = out.write if kind == "zip" else out.add
        for path in files:
            add(path, path.relative_to(cell_folder).as_posix())
        add(tmp_path / "notes.txt", "notes.txt")
        add(tmp_path / "notes.txt", "__MACOSX/._a.png")
    assert sorted(names(archive)) == [f"{archive}/{path.relative_to(cell_folder).as_posix()}" for path in files]
    assert find_inputs([str(archive)]).others == 1
    assert names(files[3], archive)[0] == str(files[3]), "loose files come first"


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "cells.zip").write_bytes(b"PK\3\4 cut")
    with pytest.raises(DataError, match="is an archive that is cut or damaged"):
        find_inputs([str(tmp_path / "cells.zip")])


def test_a_table_names_files_beside_it_as_in_training(cell_folder, tmp_path):
    files = sorted(cell_folder.rglob("*.png"))[:5]
    for path in files:
        (tmp_path / "pictures").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "pictures")
    wanted = [str(tmp_path / "pictures" / path.name) for path in files]
    (tmp_path / "whole.csv").write_text("n,file\n" + "".join(f"{i},pictures/{path.name}\n" for i, path in enumerate(files)))
    (tmp_path / "stems.tsv").write_text("image_id\tage\n" + "".join(f"{path.stem}\t3\n" for path in files))
    (tmp_path / "first.csv").write_text("what,why\n" + "".join(f"{path.name},x\n" for path in [*files, files[0]]))
    parquet.write_table(pyarrow.table({"path": [path.name for path in files]}), tmp_path / "cells.parquet")
    for table in ("whole.csv", "stems.tsv", "first.csv", "cells.parquet"):
        assert names(tmp_path / table) == wanted


def test_a_file_of_a_table_that_is_not_there_keeps_its_row(tmp_path, cell_folder):
    (tmp_path / "list.csv").write_text("file\ngone.png\n")
    ((name, reference),) = find_inputs([str(tmp_path / "list.csv")]).stream()
    assert name == str(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError):
        reference.read()
