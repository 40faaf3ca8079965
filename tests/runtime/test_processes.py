"""Several processes: that they train as one, take over from each other, stop together, and end when one of them is lost.

Runs that are compared start several processes once and do all their work there, because a start takes seconds; what is about
signals, launchers and exit codes goes through launch.py.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import faults
import numpy as np
import pytest
from training_tools import ROOT, child_environment, read_rows, tiny

import cnnjax
from cnnjax.data import dataset
from cnnjax.errors import Stopped
from cnnjax.progress import Progress
from cnnjax.runs import RunDirectory
from cnnjax.training import feeds as pipeline

pytestmark = pytest.mark.slow

MATRIX = [(4, 1), (2, 1), (2, 2), (4, 2), (2, 8)]  # processes, devices of each
# 16 is divided by 2 x 8 devices, but divides no split. SGD, so that last bits stay last bits.
OPTIONS = {"data__batch_size": 16, "train__epochs": 4, "optimizer__name": "sgd", "optimizer__learning_rate": 0.01}
BATCHES = 12  # global batches that are compared, over more than two epochs
LIMIT = 400  # seconds until a process that should have ended counts as hanging

# What every process of a start does: a list of jobs, each a run that is trained, or is stopped after some lines of its log.
WORKER = """
import json, os, sys
from pathlib import Path
address, count, process, jobs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
written = []
def note(event, args):
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        written.append(args[0])
sys.addaudithook(note)
import numpy as np
from training_tools import tiny
import cnnjax
from cnnjax.data import dataset
from cnnjax.training import feeds as pipeline
from cnnjax import progress
from cnnjax import runtime
runtime.connect(address, count, process)
said = []
for job in jobs:
    workdir = Path(job["workdir"])
    config = tiny(job["folder"], job["cache"], **job["options"])
    log = workdir / "metrics.jsonl"
    try:
        cnnjax.train(config, workdir,
                     stop=lambda: bool(job["lines"]) and log.exists() and len(log.read_text().splitlines()) >= job["lines"])
    except cnnjax.Stopped as stopped:
        said.append(str(stopped))
    if job["batches"]:
        data = dataset.prepare(config, workdir, progress.Progress(), freeze=False)
        batches = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=config.data.batch_size,
                                        seed=config.seed, process_index=process, process_count=count)
        some = [batches[k] for k in range(job["batches"])]
        np.savez(f"{workdir}.{process}.npz", **{name: [b[name] for b in some] for name in ("image", "label")})
runtime.disconnect()
inside = [path for path in written if any(path.startswith(job["workdir"] + os.sep) for job in jobs)]
print(json.dumps({"said": said, "written": [path for path in inside if "/checkpoints/" not in path]}))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def environment(devices=1):
    """Environment of a process, without the level of messages that JAX set in this one when it was imported."""
    whole = child_environment(devices)
    whole.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return whole


def begin(command, processes, devices=1, more=lambda process: {}):
    """Starts `command(process)` for every process, with `more(process)` in its environment; the list of them."""
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command(process))],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(devices), **more(process)},
        )
        for process in range(processes)
    ]


def end(started):
    """Waits for all; (exit code, stdout, stderr) of each. None of them outlives the test."""
    try:
        until = time.monotonic() + LIMIT
        spoken = [process.communicate(timeout=max(until - time.monotonic(), 1)) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *said) for process, said in zip(started, spoken, strict=True)]


def work(processes, devices, jobs):
    """Runs `WORKER`; what each process has to tell."""
    address = f"localhost:{free_port()}"
    done = end(begin(lambda process: ["-c", WORKER, address, processes, process, json.dumps(jobs)], processes, devices))
    assert [code for code, _, _ in done] == [0] * processes, done
    return [json.loads(out.splitlines()[-1]) for _, out, _ in done]


@pytest.fixture(scope="module")
def cells(make_folder, tmp_path_factory):
    """86 images of 12 patients."""
    return make_folder(tmp_path_factory.mktemp("data") / "cells", per_class=43)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def job(cells, place):
    """A job of `WORKER` in the run directory `name`."""

    def make(name, lines=0, batches=0, **options):
        return {"workdir": str(place / name), "folder": str(cells), "cache": str(place / "cache"), "lines": lines,
                "batches": batches, "options": {**OPTIONS, **options}}  # fmt: skip

    return make


@pytest.fixture(scope="module")
def here(cells, place):
    """Trains in this process, on one device, and stops after some lines of the log."""

    def train(name, lines=0, **options):
        log = place / name / "metrics.jsonl"
        cnnjax.train(tiny(cells, place / "cache", **{**OPTIONS, **options}), place / name,
                     stop=lambda: bool(lines) and log.exists() and len(log.read_text().splitlines()) >= lines)  # fmt: skip
        return place / name

    return train


@pytest.fixture(scope="module")
def one(here):
    """The run of one process and device."""
    return here("one")


@pytest.fixture(scope="module")
def matrix(one, here, job):
    """Every run of the matrix, and one that is handed from 1 to 4, one from 4 to 2 processes: the answers of each start."""
    with pytest.raises(Stopped):
        here("up", lines=3)
    extra = {
        (4, 1): [job("down", lines=3), job("up")],
        (2, 1): [
            job("down", lines=9),
            job("whitened", image__zca=True),
            job("divided", mesh__fsdp=2),
            job("resident", data__placement="device", train__checkpoint_every="3 steps"),
        ],
    }
    return {
        (processes, devices): work(processes, devices, [job(f"{processes}x{devices}", batches=BATCHES),
                                                        *extra.get((processes, devices), [])])
        for processes, devices in MATRIX
    }  # fmt: skip


def log(workdir):
    """Lines of metrics.jsonl without the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def history(workdir):
    """history.csv without the clock."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_rows(workdir / "history.csv")
    ]


def alike(workdir, expected, tolerance=1e-4):
    """The same steps with the same numbers to float tolerance, in the log and in the history, without a gap."""
    for have, want in ((log(workdir), log(expected)), (history(workdir), history(expected))):
        assert len(have) == len(want)
        for a, b in zip(have, want, strict=True):
            assert list(a) == list(b)
            assert list(map(float, a.values())) == pytest.approx(list(map(float, b.values())), rel=tolerance, abs=tolerance)


def evaluated_alike(workdir, expected):
    """The same images, each once and in the same order, with the same numbers to float tolerance."""
    for split in ("train", "val", "test"):
        have, want = (read_rows(path / "eval" / f"{split}.csv") for path in (workdir, expected))
        assert [row["id"] for row in have] == [row["id"] for row in want]
        assert len({row["id"] for row in have}) == len(have)
        np.testing.assert_allclose([float(row["p_Parasitized"]) for row in have],
                                   [float(row["p_Parasitized"]) for row in want], atol=1e-4)  # fmt: skip
        numbers = [json.loads((path / "summary.json").read_text())[split] for path in (workdir, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)


# As one


def test_no_split_is_a_whole_number_of_batches(one):
    assert all(
        len(read_rows(one / "eval" / f"{split}.csv")) % OPTIONS["data__batch_size"] for split in ("train", "val", "test")
    )


@pytest.mark.parametrize("processes, devices", MATRIX)
def test_processes_and_devices_train_and_evaluate_as_one(matrix, place, one, processes, devices):
    workdir = place / f"{processes}x{devices}"
    alike(workdir, one)
    evaluated_alike(workdir, one)


@pytest.mark.parametrize("processes, devices", MATRIX)
def test_the_blocks_of_the_processes_are_the_global_batches_of_one(matrix, cells, place, one, processes, devices):
    data = dataset.prepare(tiny(cells, place / "cache", **OPTIONS), one, Progress(), freeze=False)
    batches = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=16, seed=0)
    blocks = [np.load(f"{place / f'{processes}x{devices}'}.{process}.npz") for process in range(processes)]
    for k in range(BATCHES):
        for name in ("image", "label"):
            np.testing.assert_array_equal(np.concatenate([block[name][k] for block in blocks]), batches[k][name])


def test_only_the_first_process_writes_files(matrix):
    for answers in matrix.values():
        assert answers[0]["written"]
        assert [answer["written"] for answer in answers[1:]] == [[]] * (len(answers) - 1)


def test_whitening_is_fitted_once_for_all_processes(matrix, here, place):
    alike(place / "whitened", here("whitened-one", image__zca=True))


def test_parameters_divided_between_processes_train_as_whole_ones(matrix, place, one):
    alike(place / "divided", one)
    evaluated_alike(place / "divided", one)


def test_images_on_the_devices_of_several_processes_are_the_same_batches(matrix, place):
    assert log(place / "resident") == log(place / "2x1")


# Handed over


def test_four_processes_hand_over_to_two_and_to_one(matrix, here, place, one):
    assert [answer["said"] for answer in matrix[4, 1]] == [matrix[4, 1][0]["said"]] * 4
    assert [answer["said"] for answer in matrix[2, 1]] == [matrix[2, 1][0]["said"]] * 2
    alike(here("down"), one)
    evaluated_alike(place / "down", one)


def test_one_process_hands_over_to_four(matrix, place, one):
    alike(place / "up", one)
    evaluated_alike(place / "up", one)


# The command line


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


@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_a_process_ends_the_others_in_one_line(matrix, launch, place, victim):
    workdir = place / f"lost{victim}"
    started = launch(workdir)
    once_logged(workdir, 7)
    started[victim].kill()
    since = time.monotonic()
    done = end(started)
    assert time.monotonic() - since < 60
    assert codes(done)[1 - victim] == 1, done
    line = error_line(done[1 - victim][2])
    assert "another process of this run is gone" in line and "start all of them again" in line


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
    workdir = place / "lost1"
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
