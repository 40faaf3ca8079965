"""One verb: try learning rates, before anything is trained."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import pages, runs, runtime, training
from cnnjax.errors import ConfigError
from cnnjax.progress import Progress


def lr_find(config: config_lib.Config, workdir: str | Path, *, progress: Progress | None = None,
            stop: Callable[[], bool] = lambda: False) -> tuple[Path, float | None]:  # fmt: skip
    """Trains a hundred steps with a learning rate that rises, and draws the loss over it as `lr_find.png`.

    Nothing that a run depends on is written.

    Args:
        config: from `load_config`.
        workdir: where the picture goes; the directory of a run is as good as any.
        progress: hears what happens.
        stop: polled while decoding and between steps.

    Returns:
        The picture, and the rate to begin with; None where no rate lowers the loss.

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true.
    """
    runtime.set_up(config)
    progress, run = progress or Progress(), runs.RunDirectory(workdir)
    run.check_apart(config)
    if config.train.method == "probe":
        raise ConfigError("train.method=probe has no learning rate; train with it, or use --config.train.method=gradient")
    config = training.with_weights(config, run, progress)
    config = training.with_batch_size(config, run, progress)
    if config.train.unfreeze_epoch:
        progress.message(f"  all layers are trained here, as from epoch {config.train.unfreeze_epoch} of a training on")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, freeze="", unfreeze_epoch=0))
    with runs.begun(run.path):
        runs.check_writable(run.path, "use another --workdir")
        data = data_lib.prepare(config, run.path, progress, freeze=False, stop=stop)
    mesh = runtime.mesh(config.runtime.devices, fsdp=config.mesh.fsdp, divides=config.data.batch_size)
    plan = training.make_plan(config, mesh, len(data.classes), len(data.splits["train"]))
    with progress.task("learning rates", training.RANGE_STEPS, "steps") as advance:
        found = training.range_test(config, data, plan, mesh, progress, advance=advance, stop=stop)
    drawn = pages.range_figure(found.rates, found.losses, found.smooth, found.suggested, config.name)
    pages.save_figure(drawn, run.rates)
    return run.rates, found.suggested
