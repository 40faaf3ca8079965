"""A job of Slurm without Slurm, which the tests of the scripts in `deploy/` share."""

import os
import shutil
import subprocess

import pytest

BASH = shutil.which("bash")


@pytest.fixture
def job(request, tmp_path):
    """A job in which Slurm's commands are stand-ins, of the test module's `SCRIPT`: call it with srun's exit code; returns what came of it.

    Keywords are environment variables. `srun_does` is a line of bash that srun runs first.
    """
    if not BASH:
        pytest.skip("bash is not there")
    commands = tmp_path / "bin"
    commands.mkdir()

    def command(name: str, text: str) -> None:
        (commands / name).write_text(f"#!{BASH}\n{text}\n")
        (commands / name).chmod(0o755)

    def told(name: str) -> str:
        return (tmp_path / name).read_text() if (tmp_path / name).exists() else ""

    def run(status: int, *arguments: str, srun_does: str = "", scontrol: int = 0, **environment: str):
        command("srun", f'printf "%s\\0" "$@" > {tmp_path}/srun\n{srun_does}\nexit {status}')
        command("scontrol", f'echo "$@" >> {tmp_path}/scontrol\nexit {scontrol}')
        for name in ("srun", "scontrol"):
            (tmp_path / name).unlink(missing_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k not in ("SECONDS", "MAX_RESTARTS")}
        slurm = {"SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "8", "PATH": f"{commands}:{os.environ['PATH']}"}
        done = subprocess.run([BASH, request.module.SCRIPT, *arguments], env={**clean, **slurm, **environment}, cwd=tmp_path,
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        done.srun, done.scontrol = told("srun").split("\0")[:-1], told("scontrol").splitlines()
        return done

    return run
