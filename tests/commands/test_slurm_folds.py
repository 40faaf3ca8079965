"""`deploy/slurm-folds.sh`, with stand-ins for Slurm's commands."""

import pytest
from training_tools import ROOT

SCRIPT = ROOT / "deploy" / "slurm-folds.sh"


ARRAY = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "8"}


def test_the_number_in_the_array_is_that_of_the_fold(job):
    done = job(0, "--config=malaria:demo", "--workdir=/shared/a run", **ARRAY)
    start = done.srun.index("python")
    assert done.srun[start:] == [
        "python",
        "launch.py",
        "--mode=crossvalidate",
        "--fold=3",
        "--config=malaria:demo",
        "--workdir=/shared/a run",
    ]
    assert "--cpus-per-task=8" in done.srun[:start] and (done.returncode, done.scontrol) == (0, [])


@pytest.mark.parametrize("status", [2, 1, 75])
def test_only_a_fold_that_was_stopped_is_queued_again_by_itself(job, status):
    done = job(status, **ARRAY)
    assert done.returncode == status and done.scontrol == (["requeue Incomplete 4711_3"] if status == 75 else [])


def test_a_fold_that_is_cancelled_or_was_started_too_often_stays_away(job):
    assert job(75, srun_does="kill -TERM $PPID; sleep 0.3", **ARRAY).scontrol == []
    assert job(75, SLURM_RESTART_COUNT="50", **ARRAY).scontrol == []


def test_a_job_without_an_array_is_one_line(job):
    done = job(0)
    assert (
        done.returncode == 2
        and done.srun == []
        and len(done.stderr.splitlines()) == 1
        and "sbatch --array=0-4" in done.stderr
    )
