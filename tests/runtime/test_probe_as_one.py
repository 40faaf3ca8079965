"""The linear probe on several processes: the layer of one."""

import pytest
from process_tools import work
from training_tools import tiny

from cnnjax.commands.train import train
from cnnjax.runs import RunDirectory

# What the probe does not read is as by default: `tiny` sets it.
PROBE = {"train__method": "probe", "train__epochs": 30, "train__patience": 10, "optimizer__learning_rate": 1e-3,
         "probe__penalties": (100.0, 30.0, 10.0, 3.0)}  # fmt: skip


@pytest.mark.slow
def test_two_processes_with_a_divided_network_fit_the_layer_of_one(cell_folder, tmp_path):
    job = {"workdir": str(tmp_path / "run"), "folder": str(cell_folder), "cache": str(tmp_path / "cache"),
           "options": {**PROBE, "mesh__fsdp": 2}, "lines": 0, "batches": 0}  # fmt: skip
    told = work(2, 2, [job])
    assert told[1]["written"] == [] and told[0]["written"]
    made = RunDirectory(tmp_path / "run").read_summary()
    alone = train(tiny(cell_folder, tmp_path / "other", **PROBE), tmp_path / "alone").summary
    assert (made.best_step, made.steps) == (alone.best_step, alone.steps)
    assert made.test["loss"] == pytest.approx(alone.test["loss"], rel=1e-5)
