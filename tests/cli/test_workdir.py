"""Run directories that the program chooses."""

import json

import pytest

from cnnjax.cli.workdir import default_workdir


@pytest.mark.parametrize(("data", "expected"), [
    ("", "runs/folder"), ("/pictures/pets/", "runs/folder-pets"), ("/x/My set (1).zip", "runs/folder-My_set_1_"),
    ("gs://bucket/cells.tar.gz", "runs/folder-cells"), ("/", "runs/folder-data"),
])  # fmt: skip
def test_runs_on_different_data_have_directories_of_their_own(tmp_path, monkeypatch, data, expected):
    monkeypatch.chdir(tmp_path)
    assert default_workdir("folder", data) == expected


def test_a_run_that_was_begun_in_the_common_directory_stays_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = tmp_path / "runs" / "folder"
    held.mkdir(parents=True)
    (held / "config.json").write_text(json.dumps({"data": {"path": "/pets"}}))
    assert default_workdir("folder", "/pets") == "runs/folder" and default_workdir("folder", "/cats") == "runs/folder-cats"
