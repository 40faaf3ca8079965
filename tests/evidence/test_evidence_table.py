"""Tables of evaluations as arrays; what no evaluation writes is refused in one line."""

import json
import shutil

import numpy as np
import pytest
from training_tools import one_line

from cnnjax import config as config_lib
from cnnjax.errors import CheckpointError
from cnnjax.evidence import read_table
from cnnjax.evidence.table import unit_of
from cnnjax.runs import Evaluation, RunDirectory


@pytest.fixture
def run(tmp_path):
    """A run with an evaluation of four images in two groups; make(header, rows) writes another table."""
    run = RunDirectory(tmp_path / "run")
    run.write_json(run.config, json.loads(config_lib.to_json(config_lib.Config())))
    counts = {"split": "test", "step": 1, "numbers": {}, "per_class": {}}
    run.write_evaluation("test", Evaluation(classes=("-a", "b"), positive="b", confusion=[[1, 1], [1, 1]], **counts))

    def make(*, header=("id", "group", "label", "predicted", "p_-a", "p_b"), **changed):
        rows = [["=1", "P1", "-a", "-a", 0.75, 0.25], ["i2", "", "-a", "b", 0.5, 0.5],
                ["i3", "P2", "b", "-a", 1.0, 0.0], ["i4", "P1", "b", "b", 0.1, 0.9]]  # fmt: skip
        rows = [[*row, 2.5, -1] for row in rows]
        for name, value in changed.items():
            rows[1][header.index(name)] = value
        run.write_rows(run.predictions("test"), header, [row[: len(header)] for row in rows])
        return run

    return make


def test_a_table_is_read_as_it_was_written(run):
    table = read_table(run(), "test")
    assert list(table.ids) == ["=1", "i2", "i3", "i4"] and table.classes == ("-a", "b") and table.positive == 1
    assert (
        table.groups.names == ["P1", "P2", ""]
        and table.groups.index.tolist() == [0, 2, 1, 0]
        and table.groups.unit == "group"
    )
    assert table.labels.tolist() == [0, 0, 1, 1] and table.predicted.tolist() == [0, 1, 0, 1]
    assert table.probabilities[:, 1].tolist() == [0.25, 0.5, 0.0, 0.9]
    assert np.exp(table.logits[0]) == pytest.approx([0.75, 0.25]) and table.margin.tolist()[2] == -745


def test_raw_logits_are_read_where_they_are(run):
    names = ("id", "group", "label", "predicted", "p_-a", "p_b")
    table = read_table(run(header=(*names, "z_-a", "z_b")), "test")
    assert table.logits.tolist() == [[2.5, -1.0]] * 4
    assert (table.probabilities == read_table(run(header=names), "test").probabilities).all()


@pytest.mark.parametrize("changed", [
    {"label": "c"}, {"predicted": ""}, {"p_b": "nan"}, {"p_b": "inf"}, {"p_b": "x"}, {"p_b": 0.4}, {"p_b": -0.5},
    {"header": ("id", "group", "label", "predicted", "p_-a")}, {"header": ("id", "label", "predicted", "group")},
])  # fmt: skip
def test_values_that_no_evaluation_writes_are_refused(run, changed):
    with pytest.raises(CheckpointError, match="is damaged .*write it anew with --mode=eval") as error:
        read_table(run(**changed), "test")
    one_line(error)


@pytest.mark.parametrize("text", ["", "id,group", "id,group,label,predicted,p_'-a,p_b\r\n1,2\r\n", "\0", '"'])
def test_a_table_of_another_shape_is_refused(run, text):
    path = run().predictions("test")
    path.write_text(text)
    shutil.rmtree(path.parent.parent / "checksums")
    with pytest.raises(CheckpointError, match="is damaged") as error:
        read_table(RunDirectory(path.parent.parent), "test")
    one_line(error)


def test_an_evaluation_that_is_missing_is_named(run):
    with pytest.raises(CheckpointError, match="has no evaluation 'val'; write it with --mode=eval"):
        read_table(run(), "val")


@pytest.mark.parametrize("data, unit", [
    ({"group": r"^(?P<patient>C\d+)", "columns": ()}, "patient"), ({"group": r"^(?P<slide>\d+)", "columns": ()}, "slide"),
    ({"group": r"^C\d+", "columns": ()}, "group"), ({"group": "", "columns": ("group=Patient ID",)}, "patient"),
    ({"group": "", "columns": ("group=site",)}, "group"),
])  # fmt: skip
def test_the_word_for_a_group_is_that_of_the_config(data, unit):
    assert unit_of(data) == unit
