"""Several processes through launch.py: how they join, stop together, and end when one of them is lost or cannot go on."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import fault_trials as faults
import numpy as np
import pytest
from process_tools import LIMIT, OPTIONS, alike, begin, end, environment, evaluated_alike, free_port, history, log
from training_tools import ROOT, child, read_rows

from cnnjax.runs import RunDirectory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config_file(cells, place):
    """The config of the runs above, as a file with an optional other data folder as its variant."""
    path = place / "cells.py"
    options = {k.replace("__", "."): v for k, v in OPTIONS.items()}
    path.write_text(f"""
from training_tools import tiny
from cnnjax import config as config_lib
def get_config(arg=""):
    values = dict(config_lib.flatten(tiny({str(cells)!r}, {str(place / "cache")!r})))
    return config_lib.override(config_lib.default(), {{**values, **{options!r}}})
""")
    return path


@pytest.fixture(scope="module")
def launch(config_file):
    """Starts launch.py in each of some processes; `more(process)` adds flags."""

    def start(workdir, *flags, processes=2, more=lambda process: [], config=config_file):
        address = f"localhost:{free_port()}"
        return begin(lambda process: ["launch.py", *([f"--config={config}"] if config else []), f"--workdir={workdir}", *flags,
                                      f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={process}",
                                      *more(process)], processes)  # fmt: skip

    return start


def once_logged(workdir, lines):
    """Returns as soon as the log has so many lines."""
    until = time.monotonic() + LIMIT
    path = workdir / "metrics.jsonl"
    while not (path.exists() and len(path.read_text().splitlines()) >= lines):
        assert time.monotonic() < until
        time.sleep(0.02)


def codes(done):
    return [code for code, _, _ in done]


def silent(out):
    """Whether nothing but Gloo, which knows no silence, has spoken."""
    return all(line.startswith("[Gloo]") for line in out.splitlines())


def error_line(text):
    """The one line of an error."""
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), text
    return lines[0]


def test_sigterm_to_one_stops_all_at_the_same_step_and_slurm_continues(matrix, launch, config_file, place):
    workdir = place / "stopped"
    started = launch(workdir)
    once_logged(workdir, 3)
    started[1].send_signal(signal.SIGTERM)
    done = end(started)
    assert codes(done) == [75, 75], done
    assert done[0][2] == done[1][2] and "everything is saved; the same command continues" in done[0][2]
    assert silent(done[1][1])
    assert json.loads((workdir / "summary.json").read_text())["stopped"] == "signal"

    job = free_port()  # the port of the coordinator comes from the number of the job
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1",
             "JAX_COORDINATOR_PORT": str(job)}  # fmt: skip
    done = end(begin(lambda process: ["launch.py", f"--config={config_file}", f"--workdir={workdir}"], 2,
                     more=lambda process: {**slurm, "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}))  # fmt: skip
    assert codes(done) == [0, 0], done
    assert "continuing from step" in done[0][1] and silent(done[1][1]) and not done[0][2] and not done[1][2]
    undisturbed = place / "2x1"
    assert log(workdir) == log(undisturbed)
    assert history(workdir) == history(undisturbed)
    assert read_rows(workdir / "eval" / "test.csv") == read_rows(undisturbed / "eval" / "test.csv")


def ended_by_a_loss(started, lost):
    """Kills the processes `lost` of those that have been started; the others end in one line, within a minute."""
    for victim in lost:
        started[victim].kill()
    since = time.monotonic()
    done = end(started)
    assert time.monotonic() - since < 60
    for process in set(range(len(started))) - set(lost):
        assert codes(done)[process] == 1, done
        line = error_line(done[process][2])
        assert "another process of this run is gone" in line and "start all of them again" in line


def test_the_loss_of_a_process_ends_the_others_in_one_line(matrix, launch, place):
    workdir = place / "lost"
    started = launch(workdir)
    once_logged(workdir, 7)
    ended_by_a_loss(started, [1])


def test_a_run_goes_on_with_the_slice_that_is_left(launch, place, one):
    # Two slices of two processes, of which the first is lost, and with it the coordinator.
    workdir, often = place / "slices", "--config.train.checkpoint_every=3 steps"
    started = launch(workdir, often, processes=4)
    once_logged(workdir, 7)
    ended_by_a_loss(started, [0, 1])
    assert len(history(workdir)) == 1, "within the second epoch"
    done = end(launch(workdir, often))
    assert codes(done) == [0, 0], done
    assert "continuing from step" in done[0][1]
    alike(workdir, one)
    evaluated_alike(workdir, one)


def test_a_full_disk_ends_all_and_loses_nothing(matrix, launch, place):
    workdir = place / "full"
    try:
        with faults.mounted(workdir, 65536):
            started = launch(workdir)
            once_logged(workdir, 7)
            free = os.statvfs(workdir)
            with open(workdir / "fill", "wb") as file, contextlib.suppress(OSError):
                file.write(bytes(free.f_bavail * free.f_bsize))
            since = time.monotonic()
            done = end(started)
            assert time.monotonic() - since < 60
            assert sorted(codes(done)) in ([1, 2], [2, 2]), done
            for code, _, err in done:
                assert ("o space left" if code == 2 else "another process of this run is gone") in error_line(err)
            (workdir / "fill").unlink()
            assert codes(end(launch(workdir))) == [0, 0]
            undisturbed = place / "2x1"
            assert log(workdir) == log(undisturbed)
            assert history(workdir) == history(undisturbed)
    except faults.Skip as reason:
        pytest.skip(str(reason))


@pytest.mark.skipif(not shutil.which("mpirun"), reason="Open MPI's mpirun is not installed")
def test_mpirun_needs_no_flags_and_continues_after_a_loss(matrix, config_file, place):
    # A process that is bound to one core computes in other parts, and differs in the last bits.
    workdir = place / "lost"
    assert (workdir / "metrics.jsonl").exists()
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", sys.executable, "launch.py",
               f"--config={config_file}", f"--workdir={workdir}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT,
                          env=environment())  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the numbers at the best step") == 1
    undisturbed = place / "2x1"
    assert log(workdir) == log(undisturbed)
    assert history(workdir) == history(undisturbed)


def test_eval_of_two_processes_gives_the_numbers_of_one(matrix, launch, place, one):
    before = read_rows(one / "eval" / "test.csv")
    done = end(launch(one, "--mode=eval", config=None))
    assert codes(done) == [0, 0], done
    assert silent(done[1][1]) and not done[1][2]
    assert "written" in done[0][1]
    result = json.loads((one / "eval" / "test.json").read_text())
    summary = json.loads((one / "summary.json").read_text())
    assert {k: result[k] for k in summary["test"]} == pytest.approx(summary["test"], rel=1e-5)
    rows = read_rows(one / "eval" / "test.csv")
    assert [row["id"] for row in rows] == [row["id"] for row in before]
    np.testing.assert_allclose([float(row["p_Uninfected"]) for row in rows],
                               [float(row["p_Uninfected"]) for row in before], atol=1e-5)  # fmt: skip


# Problems of one process, and of all


def test_a_run_directory_in_use_ends_all(launch, place):
    workdir = place / "locked"
    with RunDirectory(workdir).locked():
        done = end(launch(workdir))
    assert codes(done) == [2, 1], done
    assert "is in use by another run" in error_line(done[0][2])
    assert "another process" in error_line(done[1][2])


def test_processes_that_see_different_images_end_in_one_line(launch, make_folder, place):
    other = make_folder(place / "other", per_class=43, patients=7)
    done = end(launch(place / "differ", more=lambda process: [f"--config.data.path={other}"] if process else []))
    # The split of process 0 may be there before process 1 looks for it.
    assert codes(done) in ([2, 2], [1, 2]), done
    assert re.search("see different images or splits|the data is without .*--config.data.path=PATH", error_line(done[1][2]))
    assert re.search("see different images or splits|another process cannot go on", error_line(done[0][2]))


def test_data_that_one_process_does_not_see_ends_all(launch, place):
    done = end(launch(place / "unseen", more=lambda process: ["--config.data.path=/nowhere/cells"] if process else []))
    assert codes(done) == [1, 2], done
    assert "another process" in error_line(done[0][2])
    assert "/nowhere/cells" in error_line(done[1][2])


@pytest.mark.parametrize(
    "flag, advice",
    [
        ("--config.data.batch_size=15", "data.batch_size=15 does not divide among 2 devices"),
        ("--config.mesh.fsdp=3", "mesh.fsdp=3 does not divide the 2 devices; use --config.mesh.fsdp=1 or 2"),
    ],
)
def test_what_does_not_divide_among_all_processes_is_one_line(launch, place, flag, advice):
    done = end(launch(place / "undivided", flag))
    assert codes(done) == [2, 2], done
    assert all(advice in error_line(err) for _, _, err in done)
    assert not (place / "undivided" / "config.json").exists()


@pytest.mark.parametrize(
    "flags, part",
    [
        ([], "given are 0 and -1"),
        (["--num_processes=2", "--process_id=2"], "given are 2 and 2"),
        (["--num_processes=2", "--process_id=-1"], "given are 2 and -1"),
        (["--num_processes=two"], "num_processes"),
    ],
)
def test_wrong_flags_are_one_line(config_file, tmp_path, flags, part):
    done = end(begin(lambda process: ["launch.py", f"--config={config_file}", f"--workdir={tmp_path / 'run'}",
                                      "--coordinator=localhost:1", *flags], 1))  # fmt: skip
    assert codes(done) == [2]
    assert part in error_line(done[0][2])
    assert not os.path.exists(tmp_path / "run")


@pytest.mark.parametrize(
    ("process", "missing"),
    [(0, "one or more of the processes 1, 2"), (1, "process 0 at 127.0.0.1:9")],
)
def test_a_process_says_for_whom_it_waits_and_ends_in_the_time_that_it_states(process, missing):
    code = ("import sys\nfrom cnnjax.runtime import processes\n"
            "processes.JOIN, processes.FIRST_WORD, processes.NEXT_WORD = 4, 1, 1\n"
            "port = 9 if int(sys.argv[1]) else int(sys.argv[2])\n"
            "processes.connect(f'127.0.0.1:{port}', 3, int(sys.argv[1]), lambda text: print(text, flush=True))")  # fmt: skip
    done = child(["-c", code, str(process), str(free_port())], timeout=60)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"waiting for {missing} since 1 s; this process ends after 4 s"
    assert f"error: {missing} did not come within 4 s; start all of them again" in done.stderr.splitlines()
