"""The record of looks at held-out images."""

import pytest

from cnnjax.errors import CheckpointError
from cnnjax.runs import RunDirectory, note_look, read_looks


def test_each_look_adds_a_line(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_looks(run) == []
    for step in (10, 20):
        note_look(run, "test", step, 100)
    assert [(look.name, look.step, look.images) for look in read_looks(run)] == [("test", 10, 100), ("test", 20, 100)]


@pytest.mark.parametrize("text", ["[]", '{"time": 1}', "{", '{"time": "x", "name": "test", "step": "1", "images": 2}'])
def test_a_strangers_record_is_one_line(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.looks.write_text(text)
    with pytest.raises(CheckpointError, match=r"looks.jsonl is damaged \(.*\); restore it"):
        read_looks(run)


def test_a_changed_record_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    note_look(run, "test", 10, 100)
    run.looks.write_text(run.looks.read_text().replace("100", "101"))
    with pytest.raises(CheckpointError, match="not as it was written"):
        read_looks(run)
