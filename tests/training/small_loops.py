"""The loop of a small training on drawn images, without decoding, pictures and a report."""

import contextlib
from types import SimpleNamespace

import numpy as np
from training_tools import settings

from cnnjax import runs, runtime, training
from cnnjax.checkpoints import Checkpoints
from cnnjax.progress import Progress

TRAIN, VAL, BATCH = 128, 100, 16  # 8 steps and 2 batches of validation, of which the second is not full


def drawn_data():
    """Images of two classes with their splits, as much of a `Dataset` as a loop needs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TRAIN + VAL, 8, 8, 3), dtype=np.uint8)
    rows = rng.permutation(TRAIN + VAL)
    return SimpleNamespace(images=images, labels=rng.integers(0, 2, len(images)).astype(np.int32), classes=("a", "b"),
                           splits={"train": rows[:TRAIN], "val": rows[TRAIN:]})  # fmt: skip


@contextlib.contextmanager
def small_loop(place, observer, *, devices=1, **options):
    """Gives a loop of some epochs, which saves each of them below `place`."""
    config = settings(image__size=8, model__channels=(2,), model__dense=(4,), data__batch_size=BATCH, train__patience=0, runtime__kernels="xla",
                      **options)  # fmt: skip
    data, mesh = drawn_data(), runtime.mesh(devices)
    plan = training.make_plan(config, mesh, 2, TRAIN)
    feed = training.open_feed(config, data, plan, mesh, Progress())
    start = training.Start(plan.steps.first())
    validation = training.open_validation(data, plan, mesh, BATCH, -1, Progress())
    run = runs.RunDirectory(place)
    run.path.mkdir(parents=True)
    with Checkpoints(run, writable=True) as checkpoints:
        saver = training.Saver(checkpoints, feed, runs.NoHistory(), {}, start.stopping, start.stopwatch, "epoch")
        yield training.Loop(
            config, plan, mesh, start, feed, validation, saver, runs.NoHistory(), observer, Progress(), lambda: False
        )
