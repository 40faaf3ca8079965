"""Runs on several processes and on one, which `test_as_one.py` and `test_processes.py` compare."""

import pytest
from process_tools import BATCHES, HANDED, LEGS, MATRIX, OPTIONS, work
from training_tools import tiny

import cnnjax


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
    """Trains in this process, on one device."""

    def train(name, **options):
        cnnjax.train(tiny(cells, place / "cache", **{**OPTIONS, **options}), place / name)
        return place / name

    return train


@pytest.fixture(scope="session")
def one(here, made_once):
    """The run of one process and device."""
    return made_once("one-process", lambda _: here("one"))


@pytest.fixture(scope="session")
def encoded(here, made_once):
    """The same of encoded images."""
    return made_once("encoded-one", lambda _: here("one-encoded", **HANDED["encoded"]))


@pytest.fixture(scope="session")
def matrix(one, job, made_once):
    """Every run of the matrix, and every one that is handed on: for each start, the answers of its processes."""
    return made_once("matrix", lambda _: started(job))


def started(job):
    whole = {(processes, devices): [job(f"{processes}x{devices}", batches=BATCHES)] for processes, devices in MATRIX}
    whole[2, 1].append(job("whitened", image__zca=True))
    answers = []
    for processes, devices, lines in LEGS:
        handed = [job(name, lines, **options) for name, options in HANDED.items()]
        handed[0]["batches"] = 0 if lines else BATCHES
        answers.append(work(processes, devices, [*handed, *whole.pop((processes, devices), [])]))
    return answers + [work(*cell, jobs) for cell, jobs in whole.items()]
