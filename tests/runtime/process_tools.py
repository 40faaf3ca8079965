"""Tools of the tests on several processes: how these are started and waited for, and what is compared of their runs."""

import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from training_tools import ROOT, child_environment, read_rows

MATRIX = [(2, 1)]  # processes, devices of each
# 16 is divided by 2 x 4 devices, but divides no split. SGD, so that last bits stay last bits.
OPTIONS = {"data__batch_size": 16, "train__epochs": 4, "optimizer__name": "sgd", "optimizer__learning_rate": 0.01}
BATCHES = 12  # global batches that are compared, over more than two epochs
# Runs that are handed from one start to the next, and what each start is: processes, devices of each, lines of the log after
# which it stops; 0: it goes on to the end. Two devices stand in for one process, so that parameters are divided there too.
LEGS = [(4, 1, 3), (2, 1, 6), (1, 2, 10), (4, 2, 0)]
HANDED = {
    "host": {"data__placement": "host"},
    "device": {"data__placement": "device", "train__checkpoint_every": "3 steps"},
    "fsdp": {"mesh__fsdp": 2},
    "encoded": {"data__cache": "encoded", "augment__crop_area": 0.5},
}
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
