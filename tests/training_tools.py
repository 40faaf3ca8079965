"""Tools of the training tests: a tiny config, child processes with several devices, and strict ranks in JAX."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jax

from cnnjax import config as config_lib
from cnnjax import models, runtime
from cnnjax.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

# Shapes that only fit by broadcasting are mistakes until somebody writes that they are meant.
jax.config.update("jax_numpy_rank_promotion", "raise")


def settings(**overrides) -> config_lib.Config:
    """The default tree with `section__key=value`; frozen."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.finish(config_lib.override(config_lib.default(), {"data.path": "unused", **values}))


def tiny(folder: Path, cache: Path, **overrides) -> config_lib.Config:
    """A run on `cell_folder` that takes a second or two: 16x16 pixels, 8 steps in each of 3 epochs."""
    values = {
        "data__path": str(folder),
        "data__cache_dir": str(cache),
        "data__batch_size": 8,
        "data__positive": "Parasitized",
        "data__group": r"^C\d+",
        "image__size": 16,
        "split__method": "grouped",
        "model__channels": (4, 8),
        "model__dense": (16,),
        "train__epochs": 3,
        "train__patience": 0,
        "optimizer__learning_rate": 0.01,
        "log__every": 1,
        "runtime__workers": 1,
    }
    return settings(**{**values, **overrides})


def network_of(config: config_lib.Config, classes: int) -> models.Network:
    """The network of a config for this machine's CPU."""
    return models.network(config, classes, runtime.ops(config.runtime, "cpu"))


def child(arguments: list[str], devices: int = 1, timeout: float = 240, **environment) -> subprocess.CompletedProcess:
    """Runs Python in a child process with `devices` virtual CPU devices."""
    return subprocess.run([sys.executable, *arguments], env={**child_environment(devices), **environment},
                          capture_output=True, text=True, timeout=timeout, cwd=ROOT)  # fmt: skip


def child_environment(devices: int = 1) -> dict[str, str]:
    """The environment of `child`."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_NUMPY_RANK_PROMOTION": "raise",
            "PYTHONPATH": str(Path(__file__).parent)}  # fmt: skip


def on_devices(devices: int, code: str, *arguments) -> dict:
    """Runs `code` with `arguments` on virtual devices; returns the JSON value of its last line."""
    done = child(["-c", code, *map(str, arguments)], devices)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOSS_COLUMNS = ["epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy"]


def losses(workdir: Path) -> list[list[str]]:
    """The columns of the history that do not depend on the clock, as written."""
    return [[row[name] for name in LOSS_COLUMNS] for row in read_rows(workdir / "history.csv")]


class Said(Progress):
    """Remembers messages."""

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)

    warn = message


def one_line(error) -> str:
    """The text of what `pytest.raises` has caught, which is one line."""
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
