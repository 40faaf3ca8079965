"""The outcome of a run: every number that it leaves and that no clock has made, as text to compare."""

import csv
import functools
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from training_tools import network_of

from cnnjax import checkpoints, models, runtime
from cnnjax import config as config_lib
from cnnjax.runs import RunDirectory
from cnnjax.training import optimizers, state

STEPS = 32  # of a whole run: updates
CLOCK = ("seconds", "images_per_second")  # what may differ, in any file


def outcome(workdir: Path) -> dict[str, str]:
    """Every number that a run leaves and that no clock has made, by name, as text; arrays by the digest of their bytes."""
    found = {}
    with open(workdir / "history.csv", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            found[f"history/{number}"] = str({k: v for k, v in row.items() if k not in CLOCK})
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines()):
        found[f"metrics/{number}"] = str({k: v for k, v in json.loads(line).items() if k not in CLOCK})
    summary = json.loads((workdir / "summary.json").read_text())
    for key in ("best_step", "steps", "epochs", "stopped", "train", "val", "test", "classes", "parameters"):
        found[f"summary/{key}"] = str(summary[key])
    found["splits"] = hashlib.sha256((workdir / "splits.csv").read_bytes()).hexdigest()
    found["quarantine"] = (workdir / "quarantine.csv").read_text()
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        for name, step in (("last", saved.latest()), ("best", saved.best())):
            found |= {f"{name}/{key}": value for key, value in contents(workdir, saved, step).items()}
    return found


@functools.cache
def abstract(config: str):
    """The training state of a config.json, without numbers."""
    config = config_lib.from_dict(json.loads(config))
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(
        config.optimizer, optimizers.make_schedule(config.optimizer, STEPS // 4, config.train.epochs)
    )
    shapes = jax.eval_shape(lambda: state.initial(network, tx, ema=bool(config.train.ema_decay)))
    return models.with_shardings(shapes, runtime.mesh(1))


def contents(workdir: Path, saved: checkpoints.Checkpoints, step: int) -> dict[str, str]:
    """A checkpoint as `outcome` has it."""
    shapes = abstract((workdir / "config.json").read_text())
    restored = saved.restore(step, shapes.trees())
    found = {
        "step": str(restored.step),
        "data": str({"next_index": restored.next_index}),
        "sealed": str((workdir / "checksums" / f"{step}.json").exists()),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.TrainState.of(restored.trees)):
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    early = restored.metadata["early"]
    found["early"] = str({key: early[key] for key in ("evaluated", "best_score", "best_step", "wait", "drop_wait")})
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first names whose values differ, with both values; "" where none do."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return "; ".join(
        [f"{name}: {expected.get(name)} -> {found.get(name)}" for name in names[:3]] + [f"{len(names)} in all"] * bool(names)
    )
