"""Weights that training begins with: the images that they want, before any is decoded, and the state that has them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax import config as config_lib
from cnnjax import inference, models, runs, runtime, weights
from cnnjax.config import AUTO, Origin, Preprocessing
from cnnjax.data import Dataset, read_splits
from cnnjax.errors import ConfigError, UserError
from cnnjax.progress import Progress, counted
from cnnjax.training.plan import Plan
from cnnjax.training.state import TrainState

QUOTED = "'()'"  # for a shell
Arrays = dict[tuple[str, ...], np.ndarray]  # ("params" or "stats", module, ..., name) -> array


def with_weights(config, run: runs.RunDirectory, progress: Progress, *, loads: bool = True, fetch: bool = True):
    """Returns the config with the `image` section that `model.weights` want, where it leaves that open; another config as it is.

    Args:
        config: of a command.
        run: a run that has begun with these weights keeps its section, and its weights are not looked for.
        progress: hears what was taken, and where the run differs from what the weights were trained on.
        loads: the weights will be loaded, so they are fetched now, before any work.
        fetch: get from the hub what its cache has not got.

    Raises:
        ConfigError: the weights are not there, or cannot be used.
        CheckpointError: the run that they are of is damaged, or not there.
    """
    if not config.model.weights:
        return config
    held = run.read_config() if run.is_run() else {}
    if held and held["model"]["weights"] == config.model.weights:
        return _filled(config, Preprocessing.of(config_lib.from_dict(held).image))
    wanted = _wanted(config, loads, fetch)
    filled = _filled(config, wanted)
    _say(config, filled, wanted, progress)
    return filled


def _wanted(config, loads: bool, fetch: bool) -> Preprocessing:
    origin, found = Origin.of(config.model.weights), None
    with runtime.all_or_none():
        if origin.kind == "run":
            return inference.read_preprocessing(origin.place)
        if runtime.is_main():
            if loads:
                weights.find(config)
            found = weights.wanted(config, fetch=fetch).to_dict()
    return Preprocessing.from_dict(runtime.told_by_main(found))


def _filled(config, wanted: Preprocessing):
    """The config with what its `image` section leaves open."""
    image, found = config.image, {}
    if image.size == AUTO:
        found |= {"size": wanted.size, "width": wanted.width}
    if image.resize == "auto":
        found["resize"] = wanted.resize
    if not image.mean and not image.zca and any(wanted.mean):
        found["mean"] = wanted.mean
    if not image.deviation and not image.zca and set(wanted.deviation) != {1.0}:
        found["deviation"] = wanted.deviation
    return config_lib.finish(dataclasses.replace(config, image=dataclasses.replace(image, **found)))


def _say(config, filled, wanted: Preprocessing, progress: Progress) -> None:
    """Says what was taken of the weights, and what differs from what they were trained on."""
    theirs, ours = _told(wanted, filled.image.zca), _told(Preprocessing.of(filled.image), filled.image.zca)
    before = dict(config_lib.flatten(config))
    taken = [f"{key}={value}" for key, value in ours.items() if before[key] in (AUTO, "auto", ()) and value == theirs[key]]
    if taken:
        progress.message(f"  as the weights want: {', '.join(taken)}")
    if differs := [key for key in ours if ours[key] != theirs[key]]:
        there, here = (", ".join(f"{key}={told[key]}" for key in differs) for told in (theirs, ours))
        advice = " ".join(f"--config.{key}={'auto' if key in ('image.size', 'image.resize') else QUOTED}" for key in differs)
        progress.message(f"  the weights were trained with {there}; here is {here} ({advice} takes theirs)")


def _told(images: Preprocessing, whitened: bool) -> dict[str, str]:
    found = {"image.size": ",".join(map(str, dict.fromkeys(images.shape))), "image.resize": images.resize}
    if not whitened:
        found |= {f"image.{name}": ",".join(f"{x:g}" for x in getattr(images, name)) for name in ("mean", "deviation")}
    return found


def begun(state: TrainState, config, data: Dataset, plan: Plan, mesh: jax.sharding.Mesh, progress: Progress
          ) -> tuple[TrainState, runs.Weights]:  # fmt: skip
    """Returns the first state with the weights of `model.weights`, and the facts about them that a run keeps.

    Args:
        state: before the first update, drawn.
        config: of the run.
        data: images and splits.
        plan: of the run.
        mesh: its devices.
        progress: hears what was taken.

    Raises:
        ConfigError: the weights do not fit the network.
        CheckpointError: a run that is damaged, or not there.
    """
    origin = Origin.of(config.model.weights)
    if origin.kind == "run":
        arrays, facts, told = _of_run(state, origin.place, data, plan, progress)
    else:
        arrays, facts, told = _of_file(config, plan.network)
    own = {"params": state.params, "stats": state.stats}
    taken = traverse_util.unflatten_dict({**traverse_util.flatten_dict(own), **arrays})
    trees = jax.device_put({**own, **taken}, models.shardings(own, mesh))
    total = len(traverse_util.flatten_dict(own))
    new = f"; new are {', '.join(facts.new[:6])}{', ...' if len(facts.new) > 6 else ''}" if facts.new else ""
    progress.message(f"  begins with the weights of {told}: {len(arrays)} of {total} arrays{new}")
    ema = (
        jax.tree.map(jnp.copy, models.averages(trees["params"], trees["stats"], config.train.ema_statistics))
        if state.ema
        else {}
    )
    return state.replace(**trees, ema=ema), facts


def _of_file(config, network: models.Network) -> tuple[Arrays, runs.Weights, str]:
    """Reads a file of weights in process 0, and gives its arrays to all."""
    found, told = {}, {}
    if runtime.is_main():
        try:
            matched, facts = weights.load(config, network)
            found = matched.arrays
            told = {"facts": dataclasses.asdict(facts), "taken": list(found)}
        except UserError as error:
            told = {"problem": str(error)}
    told = runtime.told_by_main(told)
    if "problem" in told:
        raise ConfigError(told["problem"])
    facts = runs.Weights.from_dict(told["facts"])
    shapes = {name: traverse_util.flatten_dict(tree) for name, tree in zip(("params", "stats"), network.shapes, strict=True)}
    arrays = {}
    for path in map(tuple, told["taken"]):
        tree = next(name for name in shapes if path in shapes[name])
        arrays[tree, *path] = found[path] if found else np.zeros(shapes[tree][path].shape, np.float32)
    return runtime.from_main(arrays), facts, f"{facts.source} ({facts.names} names them)"


def _of_run(
    state: TrainState, workdir: str, data: Dataset, plan: Plan, progress: Progress
) -> tuple[Arrays, runs.Weights, str]:
    """Takes the best weights of another run, wherever names and shapes are the same."""
    other = inference.restore(workdir)
    last = plan.network.model.layers[-1].module
    head = last if other.classes != data.classes else None
    theirs = traverse_util.flatten_dict(other.engine.model)
    own = traverse_util.flatten_dict({"params": state.params, "stats": state.stats})
    arrays = {path: np.asarray(theirs[path]) for path, leaf in own.items()
              if path in theirs and theirs[path].shape == leaf.shape and path[1] != head}  # fmt: skip
    if not any(path[0] == "params" and path[1] != last for path in arrays):
        raise ConfigError(f"model.weights=run:{workdir}: nothing but the last layer of that network fits {plan.network.model.__class__.__name__}; name "
                          "a run of the same network")  # fmt: skip
    if both := _seen(workdir, data):
        progress.warn(f"{counted(both, 'image')} of val and test {'has' if both == 1 else 'have'} the name of a training image of {workdir}: if "
                      "they are the same, the numbers are better than on new images; use one split for both runs")  # fmt: skip
    new = tuple("/".join(path[1:]) for path in own if path not in arrays)
    facts = runs.Weights(source=f"run:{workdir}", revision=f"step {other.step}", new=new)
    return arrays, facts, f"{workdir}, step {other.step}"


def _seen(workdir: str, data: Dataset) -> int:
    """Counts the images of val and test whose names another run has in its training split."""
    run = runs.RunDirectory(workdir)
    run.sealed.check(run.splits)
    if not run.splits.exists():
        return 0
    rows = read_splits(run.splits)
    trained = {id for id, split in zip(rows.ids, rows.splits, strict=True) if split == "train"}
    return sum(id in trained for name in ("val", "test") for id in data.ids.take(data.splits[name]))
