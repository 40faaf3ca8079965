"""The command line as a person uses it: in child processes, with exit codes, signals and one-line errors."""

import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from training_tools import ROOT, child, child_environment, read_rows

SMALL = ("model.channels=4", "model.convs=1", "model.padding=same", "model.dense=8", "image.size=16", "log.every=1",
         "runtime.workers=1", "data.batch_size=8")  # fmt: skip
OWN_COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": ""
}  # not shared with other tests: a process that is killed may leave half a file


def flags(cache, *values):
    """configs/malaria.py:demo with a tiny network."""
    return ["--config=configs/malaria.py:demo", *(f"--config.{v}" for v in (*SMALL, f"data.cache_dir={cache}", *values))]


def launch(*arguments, **options):
    return child(["launch.py", *map(str, arguments)], **options)


def refused(done):
    """The one line of an error that the user can put right."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A run of two epochs on 120 drawn cells, with the network of the config."""
    workdir = tmp_path_factory.mktemp("runs") / "cells"
    values = ("data.demo_cells=120", "train.epochs=2", f"data.cache_dir={cache}")
    done = launch("--config=configs/malaria.py:demo", *(f"--config.{v}" for v in values), f"--workdir={workdir}")
    return SimpleNamespace(workdir=workdir, done=done)


def test_training_ends_with_zero_the_numbers_and_the_next_commands(trained):
    done = trained.done
    assert done.returncode == 0, done.stderr
    assert "758,401 parameters" in done.stdout
    for line in (r"^ +1/2 +2 ", r"^ +2/2 +4 ", r"^2 epochs in .*the best step, [24]:$", r"^  split +images +loss +accuracy +AUC",
                 r"^  train +\d+ ", r"^  val +\d+ ", r"^  test +\d+ ",
                 rf"^evaluate python launch.py --mode=eval --workdir={trained.workdir} --split=test$",
                 rf"^predict  python launch.py --mode=predict --workdir={trained.workdir} --input="):  # fmt: skip
        assert re.search(line, done.stdout, re.MULTILINE), line
    for name in ("curves.png", "network.png", "history.csv", "summary.json", "eval/test.csv"):
        assert (trained.workdir / name).exists()


def test_output_that_is_no_terminal_is_plain_lines(trained):
    for text in (trained.done.stdout, trained.done.stderr):
        assert "\r" not in text and "\x1b" not in text and "\b" not in text
        assert all(line == line.rstrip() for line in text.splitlines())
    assert "Warning" not in trained.done.stderr and trained.done.stderr == ""


def test_the_same_command_again_says_that_it_is_finished(trained, cache):
    values = ("data.demo_cells=120", "train.epochs=2", f"data.cache_dir={cache}")
    done = launch("--config=configs/malaria.py:demo", *(f"--config.{v}" for v in values), f"--workdir={trained.workdir}")
    assert done.returncode == 0
    assert "is finished (2 epochs" in done.stdout and "--mode=eval" in done.stdout


def test_another_config_in_the_same_directory_is_one_line(trained, cache):
    line = refused(launch(*flags(cache, "train.epochs=1"), f"--workdir={trained.workdir}"))
    assert "train.epochs: 2 -> 1" in line
    assert line.endswith("use another --workdir, or a higher --config.train.epochs alone to train it further")


def test_eval_prints_the_numbers_of_the_summary_and_writes_them(trained):
    done = launch("--mode=eval", f"--workdir={trained.workdir}", "--split=val")
    assert done.returncode == 0, done.stderr
    summary = json.loads((trained.workdir / "summary.json").read_text())
    result = json.loads((trained.workdir / "eval" / "val.json").read_text())
    assert {key: result[key] for key in summary["val"]} == summary["val"]
    assert f"{summary['val']['loss']:.4f}" in done.stdout
    assert re.search(r"true \\ predicted +Parasitized +Uninfected", done.stdout)
    assert f"{trained.workdir}/eval/val.json" in done.stdout


def test_predict_writes_a_row_for_each_file_and_refuses_to_overwrite(trained, cell_folder, tmp_path):
    output = tmp_path / "predictions.csv"
    arguments = ("--mode=predict", f"--workdir={trained.workdir}", f"--input={cell_folder}/*/*.png", f"--output={output}")
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"96 images predicted; see {output}" in done.stdout
    rows = read_rows(output)
    assert len(rows) == 96
    assert all(row["predicted"] in ("Parasitized", "Uninfected") and not row["error"] for row in rows)
    assert "exists; replace it with --overwrite" in refused(launch(*arguments))


@pytest.mark.slow
def test_describe_shows_config_network_and_data_and_trains_nothing(cache, tmp_path):
    workdir = tmp_path / "described"
    done = launch("--mode=describe", "--config=configs/malaria.py:demo", "--config.data.demo_cells=120",
                  f"--config.data.cache_dir={cache}", f"--workdir={workdir}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  \* data.demo_cells = 120$", done.stdout, re.MULTILINE)
    assert re.search(r"^  conv1 +30 x 30 x 16 +448 +0.778$", done.stdout, re.MULTILINE)
    assert re.search(r"^  total +758,401 +17.251$", done.stdout, re.MULTILINE)
    assert "120 files in 2 classes: Parasitized, Uninfected" in done.stdout
    assert [p.name for p in workdir.iterdir()] == ["network.png"]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (
            ["--config=configs/digits.py", "--config.train.epoch=3"],
            ["'train.epoch'", "did you mean 'train.epochs'", "--help lists all"],
        ),
        (["--config=configs/digits.py", "--config.train.epochs=many"], ["train.epochs='many'", "a whole number, such as "]),
        (["--config=configs/digits.py", "--config.optimizer.name=adm"], ["optimizer.name='adm'", "did you mean 'adam'?"]),
        (["--config=configs/digits.py", "--confg=x"], ["confg", "--help"]),
        (["--config=configs/digits.py", "--mode=fit"], ["mode", "train", "predict"]),
        (["--config=configs/digit.py"], ["no config file 'configs/digit.py'", "did you mean configs/digits.py?"]),
        (["--config=configs/malaria.py:dmo"], ["'dmo'", "configs/malaria.py:demo"]),
        ([], ["--mode=train needs --config=FILE"]),
        (["--mode=describe"], ["--mode=describe needs --config=FILE"]),
        (["--config=configs/malaria.py:demo", "--topology=v5e:2x4"], ["--topology=v5e:2x4 is for --mode=describe"]),
        (["--mode=eval"], ["--mode=eval needs --workdir=DIR"]),
        (["--mode=predict"], ["--mode=predict needs --workdir=DIR"]),
        (["--mode=predict", "--workdir=x"], ["--mode=predict needs --input=FILE"]),
        (["--mode=predict", "--workdir=x", "cells/a.png"], ["'cells/a.png'", "--input=cells/a.png"]),
        (["--config=configs/digits.py", "--config.seed"], ["--config.seed has no value"]),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_go_on(arguments, parts):
    line = refused(launch(*arguments))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("start", [["launch.py"], ["-m", "cnnjax"]], ids=["launch.py", "python -m cnnjax"])
def test_every_start_is_the_same_program_with_a_version_and_errors_that_name_it(start):
    done = child([*start, "--version"])
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(r"cnnjax [\d.]+ \(jax [\d.]+, python 3[\d.]+\)\n", done.stdout)
    line = refused(child([*start, "--config=configs/digits.py", "--config.train.epoch=3"]))
    assert f" python {' '.join(start)} --help lists all" in line


def test_several_mistakes_are_told_at_once():
    done = launch("--config=configs/digits.py", "--config.train.epochs=0", "--config.image.size=1")
    assert done.returncode == 2
    assert [line.split("=")[0] for line in done.stderr.splitlines()] == ["error: image.size", "error: train.epochs"]


def test_a_workdir_that_is_no_run_is_one_line(tmp_path):
    assert "no checkpoints in" in refused(launch("--mode=eval", f"--workdir={tmp_path / 'none'}"))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_is_one_line(cache, tmp_path):
    values = ("data.demo_cells=200", "optimizer.name=sgd", "optimizer.learning_rate=1e30")
    line = refused(launch(*flags(cache, *values), f"--workdir={tmp_path / 'run'}"))
    assert "--config.optimizer.learning_rate" in line


# Signals

LONG = ("data.demo_cells=200", "train.epochs=10", "train.patience=0")


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """The run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = launch(*flags(cache, *LONG), f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def losses(workdir):
    return [
        [v for k, v in row.items() if k not in ("seconds", "images_per_second")]
        for row in read_rows(workdir / "history.csv")
    ]


def interrupt(arguments, workdir, number):
    """Starts a run and signals it once it has written one more epoch and begun the next; returns exit code and output."""
    history, deadline = workdir / "history.csv", time.monotonic() + 120

    def lines():
        return len(history.read_text().splitlines()) if history.exists() else 0

    before = max(lines(), 1)  # with the names of the columns
    process = subprocess.Popen([sys.executable, "launch.py", *arguments, f"--workdir={workdir}"], cwd=ROOT, text=True,
                               env={**child_environment(), **OWN_COMPILED}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        while lines() <= before:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


@pytest.mark.slow
def test_a_run_that_is_signalled_and_killed_finishes_as_if_nothing_had_been(cache, undisturbed, tmp_path):
    workdir, arguments = tmp_path / "run", flags(cache, *LONG)
    for number in (signal.SIGTERM, signal.SIGINT):
        code, out, err = interrupt(arguments, workdir, number)
        assert code == 75, out + err
        step = int(re.fullmatch(r"stopped at step (\d+), everything is saved; the same command continues\n", err)[1])
        assert json.loads((workdir / "summary.json").read_text())["stopped"] == "signal"
    code, out, err = interrupt(arguments, workdir, signal.SIGKILL)
    assert code == -signal.SIGKILL and f"continuing from step {step}" in out, out + err
    done = launch(*arguments, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stdout
    assert losses(workdir) == losses(undisturbed)
    assert json.loads((workdir / "summary.json").read_text())["stopped"] == "finished"


def test_a_signal_before_the_first_step_is_told_and_loses_nothing(cache, tmp_path):
    """While cells are drawn and decoded."""
    workdir = tmp_path / "run"
    fresh = flags(tmp_path / "fresh", "data.demo_cells=20000", "train.epochs=1")
    process = subprocess.Popen([sys.executable, "launch.py", *fresh, f"--workdir={workdir}"], cwd=ROOT, text=True,
                               env={**child_environment(), **OWN_COMPILED}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        process.stdout.readline()  # the first line comes before the decoding
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75, out + err
    assert err == "stopped while decoding, nothing is kept of it; the same command starts again\n"
    assert not workdir.exists()


# Whole runs


def test_ctrl_c_in_a_prediction_is_one_line(trained, cell_folder, tmp_path):
    process = subprocess.Popen([sys.executable, "launch.py", "--mode=predict", f"--workdir={trained.workdir}", f"--input={cell_folder}",
                                f"--output={tmp_path / 'p.csv'}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    if process.returncode:  # else it was done before
        assert process.returncode == 75 and len(error.splitlines()) <= 1, error


SWALLOWED = """
import os, signal, sys
from cnnjax import checkpoints
from cnnjax.cli import program
from cnnjax.errors import CheckpointError

def load(self, *arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    except KeyboardInterrupt:
        raise CheckpointError("checkpoint 2 is damaged") from None

checkpoints.Checkpoints.load = load
sys.exit(program.run(sys.argv))
"""


def test_ctrl_c_that_a_library_makes_an_error_of_is_ctrl_c(trained):
    done = child(["-c", SWALLOWED, "--mode=eval", f"--workdir={trained.workdir}"])
    assert (done.returncode, done.stderr) == (75, "stopped before it was done; the same command starts it again\n"), (
        done.stderr
    )


@pytest.mark.slow
def test_files_of_others_are_not_replaced(trained, cache, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    assert "holds report.html but no run" in refused(launch(*flags(cache), f"--workdir={tmp_path}"))
    output = f"--output={tmp_path / 'report.html'}"
    assert "is not a page of cnnjax and is not overwritten" in refused(
        launch("--mode=report", f"--workdir={trained.workdir}", output)
    )
    (tmp_path / "explore.html").write_text("mine")
    page = refused(launch("--mode=explore", *flags(cache), f"--workdir={tmp_path}"))
    assert "explore.html exists, is not a page of cnnjax" in page and not (tmp_path / "explore").exists()
    assert (tmp_path / "report.html").read_text() == (tmp_path / "explore.html").read_text() == "mine"
    (tmp_path / "report.html").unlink()
    for _ in range(2):  # one of its own is replaced
        assert launch("--mode=report", f"--workdir={trained.workdir}", output).returncode == 0


def test_a_system_without_file_locks_is_refused_in_one_line(tmp_path):
    code = "import sys, runpy; sys.modules['fcntl'] = None; sys.argv = ['launch.py']; runpy.run_path('launch.py', run_name='__main__')"
    assert "on Windows run it in WSL" in refused(child(["-c", code]))
