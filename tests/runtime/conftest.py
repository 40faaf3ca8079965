"""Runs on several processes and on one, which `test_as_one.py` and `test_processes.py` compare."""

import pytest
from process_tools import BATCHES, MATRIX, OPTIONS, work
from training_tools import tiny

import cnnjax
from cnnjax.errors import Stopped


@pytest.fixture(scope="session")
def cells(make_folder, made_once):
    """86 images of 12 patients."""
    return made_once("few-cells", lambda place: make_folder(place / "cells", per_class=43))


@pytest.fixture(scope="session")
def place(made_once):
    return made_once("processes", lambda place: place)


@pytest.fixture(scope="session")
def job(cells, place):
    """A job of `WORKER` in the run directory `name`."""

    def make(name, lines=0, batches=0, **options):
        return {"workdir": str(place / name), "folder": str(cells), "cache": str(place / "cache"), "lines": lines,
                "batches": batches, "options": {**OPTIONS, **options}}  # fmt: skip

    return make


@pytest.fixture(scope="session")
def here(cells, place):
    """Trains in this process, on one device, and stops after some lines of the log."""

    def train(name, lines=0, **options):
        log = place / name / "metrics.jsonl"
        cnnjax.train(tiny(cells, place / "cache", **{**OPTIONS, **options}), place / name,
                     stop=lambda: bool(lines) and log.exists() and len(log.read_text().splitlines()) >= lines)  # fmt: skip
        return place / name

    return train


@pytest.fixture(scope="session")
def one(here, made_once):
    """The run of one process and device."""
    return made_once("one-process", lambda _: here("one"))


@pytest.fixture(scope="session")
def matrix(one, here, job, made_once):
    """Every run of the matrix, and one that is handed from 1 to 4, one from 4 to 2 processes: the answers of each start."""
    return made_once("matrix", lambda _: started(here, job))


def started(here, job):
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
