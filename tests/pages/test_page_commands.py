"""Commands that write pages, and their errors."""

import shutil

import pytest
from training_tools import child


@pytest.mark.slow
def test_the_command_line_makes_pages(two, three, cache, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "run")
    (workdir / "report.html").unlink()
    done = child(["launch.py", "--mode=report", f"--workdir={workdir}"])
    assert done.returncode == 0 and f"written  {workdir}/report.html" in done.stdout and (workdir / "report.html").exists()
    page = tmp_path / "both.html"
    done = child(["launch.py", "--mode=report", f"--compare={workdir},{three.workdir}", f"--output={page}"])
    assert done.returncode == 0 and page.exists()
    arguments = ["--mode=explore", "--config=configs/malaria.py:demo", "--config.data.demo_cells=60", "--config.augment=light",
                 f"--config.data.cache_dir={cache}", f"--workdir={tmp_path / 'demo'}"]  # fmt: skip
    done = child(["launch.py", *arguments])
    assert done.returncode == 0 and (tmp_path / "demo" / "explore.html").exists()
    assert f"--workdir={tmp_path / 'demo'} --config.data.demo_cells=60 --config.augment=light" in done.stdout


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--mode=report"], "needs --workdir=DIR, a run directory, or --compare=runs/a,runs/b"),
        (["--mode=report", "--workdir=nowhere"], "nowhere holds no run; train first"),
        (["--mode=report", "--compare=one"], "--compare needs two or more different run directories"),
        (["--mode=report", "--compare=one,two"], "one holds no run"),
        (["--mode=report", "--workdir=x", "--config.seed=1"], "leave out --config"),
        (["--mode=explore", "--config=configs/malaria.py:demo", "--workdir=/dev/null/x"], "cannot write to /dev/null/x"),
        (["--mode=explore"], "--mode=explore needs --config=FILE"),
        (["--mode=explore", "--config=configs/folder.py", "--config.data.path=nowhere"], "no such folder or archive"),
        (["--mode=explore", "--config=configs/malaria.py:demo", "--config.augment=lite"], "did you mean 'light'?"),
    ],
)
def test_wrong_commands_are_one_line(arguments, line):
    done = child(["launch.py", *arguments])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line in done.stderr and len(done.stderr.splitlines()) == 1
