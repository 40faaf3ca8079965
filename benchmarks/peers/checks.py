"""cnnjax against itself: on two kinds of device, with two feeds, stopped and continued."""

import contextlib
import json
from pathlib import Path

import numpy as np

from benchmarks import tasks
from benchmarks.peers.ours import CONFIGS, Ours
from cnnjax import config as config_lib

BATCHES = 8  # different batches of `curves`


def open_peer(settings: tasks.Settings, name: str) -> "Checks":
    return Checks(settings, "auto")


class Checks(Ours):
    """Numbers of training that do not depend on the clock."""

    def curves(self, steps: int, pairs: list[tuple[str, str]], kernels: str) -> dict[str, list[float]]:
        """Returns the losses of the first updates, with the task's dropout and the tutorial's augmentation.

        Args:
            steps: updates.
            pairs: precisions, each with a feed, host or device.
            kernels: `runtime.kernels`.

        Returns:
            "precision, feed" -> `steps` losses.
        """
        self._kernels = kernels
        return {f"{precision}, {feed}": self._curve(steps, precision, feed) for precision, feed in pairs}

    def _curve(self, steps: int, precision: str, feed: str) -> list[float]:
        import jax

        from cnnjax import runtime
        from cnnjax.training import feeds

        images, labels = tasks.batch(self.settings, BATCHES)
        batches = feeds.TrainBatches(
            images, labels, np.arange(len(labels)), batch_size=self.settings.batch, seed=self.settings.seed
        )
        most = runtime.steps_at_once(self.mesh) if feed == "device" else 1
        served = feeds.DeviceFeed(batches, self.mesh, most) if feed == "device" else feeds.HostFeed(batches, self.mesh)
        found: list[float] = []
        # Else an accelerator has 8 to 11 bits of each factor in float32, too.
        exact = jax.default_matmul_precision("highest") if precision == "float32" else contextlib.nullcontext()
        with exact:
            compiled, state = self._start(self._config(train__precision=precision, augment="tutorial"), most)
            while len(found) < steps:
                count = min(most, steps - len(found))
                state, values = compiled.train(state, served.take(count), served.resident)
                found += np.atleast_1d(values["loss"])[:count].tolist()
        return found

    def resume(self, cells: int, epochs: int) -> dict:
        """Trains drawn cells by `cnnjax.train`: to the end, and stopped and continued.

        Returns:
            "stopped": steps after which it was.
            "same losses", "same weights": whether the continued run has those of the uninterrupted one, bit for bit.
            "repeats": whether a second uninterrupted run has the weights of the first; tried where the continued run has not.
            "spent": seconds of the program's stopwatch by kind of work, of the uninterrupted run.
        """
        whole = self._trained("whole", cells, epochs)
        steps = len(whole["losses"])
        stopped = self._trained("stopped", cells, epochs, stop_at=steps // 3)
        same = _same(whole, stopped)
        return {"steps": steps, "stopped": stopped["at"], "same losses": whole["losses"] == stopped["losses"],
                "same weights": same, "repeats": same or _same(whole, self._trained("again", cells, epochs)),
                "spent": whole["spent"]}  # fmt: skip

    def _trained(self, name: str, cells: int, epochs: int, *, stop_at: int = 0) -> dict:
        """Trains, stopped once after about `stop_at` steps where that is not 0; returns losses, weights, and where time went."""
        import jax

        import cnnjax

        workdir, at = Path(self.settings.scratch) / name, 0
        log = workdir / "metrics.jsonl"
        config = config_lib.load_config(f"{CONFIGS / 'malaria.py'}:demo", {
            "data.demo_cells": cells, "data.batch_size": self.settings.batch, "data.placement": "device",
            "data.cache_dir": self.config.data.cache_dir, "image.size": self.settings.size, "train.epochs": epochs,
            "train.patience": 0, "train.checkpoint_every": "", "log.every": 1})  # fmt: skip

        def losses() -> list[float]:
            rows = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
            return [row["loss"] for row in rows if "loss" in row]

        if stop_at:
            try:
                cnnjax.train(config, workdir, stop=lambda: len(losses()) >= stop_at)
            except cnnjax.Stopped:
                at = len(losses())
        run = cnnjax.train(config, workdir)
        return {"losses": losses(), "at": at, "spent": dict(run.summary.spent),
                "weights": jax.tree.leaves(cnnjax.load(workdir, "latest").params)}  # fmt: skip


def _same(a: dict, b: dict) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a["weights"], b["weights"], strict=True))
