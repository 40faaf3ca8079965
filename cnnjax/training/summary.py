"""A run in numbers."""

import platform

import jax

from cnnjax import checkpoints, models, runs, runtime
from cnnjax.data import Dataset
from cnnjax.training.loop import Loop
from cnnjax.training.plan import Plan
from cnnjax.training.stopwatch import SPENT


def summarize(config, plan: Plan, mesh: jax.sharding.Mesh, loop: Loop, data: Dataset, parameters: int,
              stopped: str) -> runs.Summary:  # fmt: skip
    """Returns the summary of a run without its evaluation.

    Args:
        config: of the run.
        plan: of the run.
        mesh: its devices.
        loop: after training.
        data: of the run.
        parameters: numbers in the network.
        stopped: "finished", "early" or "signal".
    """
    stopwatch, last = loop.stopwatch, plan.network.model.layers[-1].module
    probed = sum(x.size for x in jax.tree.leaves(plan.network.shapes[0].get(last)))
    return runs.Summary(
        name=config.name,
        best_step=loop.stopping.best_step,
        steps=loop.done,
        epochs=loop.done // plan.steps_per_epoch,
        stopped=stopped,
        seconds=round(stopwatch.now(), 1),
        images_per_second=round(stopwatch.images_per_second(), 1),
        parameters=parameters,
        trained_parameters=probed if config.train.method == "probe" else plan.trained,
        classes=data.classes,
        devices=runtime.describe(mesh),
        kernels=plan.network.ops.name,
        precision=models.precision(config, plan.network.ops),
        python=platform.python_version(),
        platform=platform.platform(),
        versions=checkpoints.versions(),
        revision=checkpoints.revision(),
        notes=data.notes,
        spent={kind: round(stopwatch.spent.get(kind, 0.0), 2) for kind in SPENT},
    )
