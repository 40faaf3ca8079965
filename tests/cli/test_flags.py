"""Flags as people type them, those of other programs too."""

import pytest
from training_tools import one_line

from cnnjax.cli import flags
from cnnjax.cli.distributed import is_distributed
from cnnjax.errors import ConfigError


@pytest.fixture
def fresh():
    """The flags at their defaults, also afterwards."""
    yield flags.FLAGS
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()


@pytest.mark.parametrize(("argument", "said"), [
    ("--epochs=2", "did you mean --config.train.epochs=VALUE?"),
    ("--lr=0.1", "did you mean --config.optimizer.learning_rate=VALUE?"),
    ("--batch-size=8", "did you mean --config.data.batch_size=VALUE?"),
    ("--imgsz=9", "did you mean --config.image.size=VALUE?"),
    ("--resume", "the same command with the same --workdir=DIR continues a run"),
    ("--mode=test", "did you mean --mode=eval?"),
    ("train", "such as --mode=train"),
])  # fmt: skip
def test_habits_of_other_programs_are_told_what_to_type(fresh, argument, said):
    with pytest.raises(ConfigError) as error:
        flags.parse(["launch.py", argument])
    assert said in one_line(error)


@pytest.mark.parametrize("argument", ["--format=onnx", "--quantize=int8", "--ort=x"])
def test_flags_of_an_export_are_refused_elsewhere(fresh, argument):
    with pytest.raises(ConfigError) as error:
        flags.parse(["launch.py", "--mode=eval", argument])
    assert one_line(error) == f"{argument} is for --mode=export; leave it out"


def test_nothing_is_guessed_where_nothing_resembles_it(fresh):
    with pytest.raises(ConfigError) as error:
        flags.parse(["launch.py", "--zzz=2"])
    assert "did you mean" not in one_line(error)


@pytest.mark.parametrize(
    "arguments", [("--input", "a.png", "b.png"), ("--input=a.png", "b.png"), ("--input=a.png", "--input=b.png")]
)
def test_a_glob_that_the_shell_has_opened_is_several_inputs(fresh, arguments):
    assert flags.parse(["launch.py", "--mode=predict", *arguments, "--workdir=x"]) == {}
    assert fresh.input == ["a.png", "b.png"] and fresh.workdir == "x"


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"TPU_WORKER_HOSTNAMES": "host"}, False),
        ({"TPU_WORKER_HOSTNAMES": "one,two"}, True),
        ({"TPU_WORKER_HOSTNAMES": "host", "MEGASCALE_NUM_SLICES": "2"}, True),  # two slices of one host each
        ({"SLURM_NTASKS": "2"}, False),  # within sbatch, but not within srun
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "host"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_the_environment_tells_whether_there_are_other_processes(fresh, monkeypatch, environment, several):
    flags.parse(["launch.py", "--workdir=x"])
    for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "MEGASCALE_NUM_SLICES", "TPU_WORKER_HOSTNAMES",
                 "JAX_COORDINATOR_ADDRESS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_distributed() == several
