"""`deploy/slurm-folds.sh`, with stand-ins for Slurm's commands."""

import os
import shutil
import subprocess

import pytest
from training_tools import ROOT

SCRIPT = ROOT / "deploy" / "slurm-folds.sh"
BASH = shutil.which("bash")


@pytest.fixture
def job(tmp_path):
    """The job of one fold, in which srun ends with an exit code and `srun_does` before; returns what came of it."""
    if not BASH:
        pytest.skip("bash is not there")
    commands = tmp_path / "bin"
    commands.mkdir()

    def command(name: str, text: str) -> None:
        (commands / name).write_text(f"#!{BASH}\n{text}\n")
        (commands / name).chmod(0o755)

    def run(status: int, *arguments: str, srun_does: str = "", **environment: str):
        command("srun", f'printf "%s\\0" "$@" > {tmp_path}/srun\n{srun_does}\nexit {status}')
        command("scontrol", f'echo "$@" >> {tmp_path}/scontrol')
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k != "MAX_RESTARTS"}
        done = subprocess.run([BASH, SCRIPT, *arguments], env={**clean, "PATH": f"{commands}:{os.environ['PATH']}", **environment},
                              cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        done.srun = (tmp_path / "srun").read_text().split("\0")[:-1] if (tmp_path / "srun").exists() else []
        done.scontrol = (tmp_path / "scontrol").read_text().splitlines() if (tmp_path / "scontrol").exists() else []
        return done

    return run


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
