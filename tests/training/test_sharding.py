"""One process with several devices, parameters divided among them, batches taken in parts, and averaged weights."""

import functools
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from training_tools import network_of, on_devices, read_rows, tiny

import cnnjax
from cnnjax import checkpoints, inference, metrics, models, runtime
from cnnjax.data import images as images_lib
from cnnjax.errors import ConfigError
from cnnjax.runs import RunDirectory
from cnnjax.runtime import devices
from cnnjax.training import feeds as pipeline
from cnnjax.training import optimizers, state, steps

train = importlib.import_module("cnnjax.commands.train").train
evaluate = importlib.import_module("cnnjax.commands.evaluate").evaluate
pytestmark = pytest.mark.usefixtures("without_pictures")

# Large enough that a kernel of each kind is divided, with all that has parameters or statistics of its own.
LARGE = {"model__channels": (16, 32), "model__dense": (64,), "model__norm": "batch", "train__ema_decay": 0.9,
         "optimizer__name": "muon", "optimizer__learning_rate": 1e-3, "train__epochs": 2, "data__batch_size": 16}  # fmt: skip

DIVIDED = """
import json, sys
from pathlib import Path
import jax, numpy as np
from training_tools import tiny, network_of
import cnnjax
from cnnjax import checkpoints, models
from cnnjax.runs import RunDirectory
from cnnjax import runtime, models
from cnnjax.training import optimizers, state
folder, cache, place, options = *map(Path, sys.argv[1:4]), json.loads(sys.argv[4])
def lines(workdir, count):
    log = workdir / "metrics.jsonl"
    return lambda: log.exists() and len(log.read_text().splitlines()) >= count
for fsdp in (1, 2, 4):
    cnnjax.train(tiny(folder, cache, **options, mesh__fsdp=fsdp), place / str(fsdp))
try:
    cnnjax.train(tiny(folder, cache, **options, mesh__fsdp=4), place / "handed", stop=lines(place / "handed", 3))
except cnnjax.Stopped:
    pass
# What lies where, after it was made and after it was restored.
config = tiny(folder, cache, **options, mesh__fsdp=4)
mesh = runtime.mesh(fsdp=4)
network, tx = network_of(config, 2), optimizers.make_optimizer(config.optimizer, lambda step: 1e-3)
make = lambda: state.initial(network, tx, ema=True)
abstract = models.with_shardings(jax.eval_shape(make), mesh)
made = jax.jit(make, out_shardings=models.shardings(abstract, mesh))()
with checkpoints.Checkpoints(RunDirectory(place / "4")) as saved:
    restored = state.TrainState.of(saved.restore(saved.latest(), abstract.trees()).trees)
def shapes(tree):
    return {jax.tree_util.keystr(path): [list(leaf.shape), [list(s.data.shape) for s in leaf.addressable_shards]]
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
parts = ("params", "opt_state", "ema", "stats")
print(json.dumps({"made": {part: shapes(getattr(made, part)) for part in parts},
                  "restored": {part: shapes(getattr(restored, part)) for part in parts}}))
"""


@pytest.fixture(scope="module")
def divided(cell_folder, cache, tmp_path_factory):
    """Runs of 8 devices with parameters divided among 1, 2 and 4 of them, and the shapes of the parts."""
    place = tmp_path_factory.mktemp("divided")
    return SimpleNamespace(place=place, shapes=on_devices(8, DIVIDED, cell_folder, cache, place, json.dumps(LARGE)))


def log(workdir):
    """Lines of metrics.jsonl without the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def alike(workdir, expected, tolerance=2e-3):
    """The same steps with the same numbers to float tolerance."""
    have, want = log(workdir), log(expected)
    assert [row["step"] for row in have] == [row["step"] for row in want]
    for a, b in zip(have, want, strict=True):
        for name in set(b) & {"loss", "val_loss", "raw_val_loss"}:
            assert a[name] == pytest.approx(b[name], rel=tolerance), (a, b)


def largest(tree, other):
    """The largest difference of two trees."""
    return max(
        np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True)
    )


# Parameters divided among devices


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [2, 4])
def test_divided_parameters_train_as_whole_ones(divided, fsdp):
    alike(divided.place / str(fsdp), divided.place / "1")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["made", "restored"])
def test_parameters_moments_and_averages_are_really_divided(divided, when):
    for part in ("params", "ema", "opt_state"):  # Muon has one moment of each kernel
        leaves = divided.shapes[when][part]
        large = {path: leaf for path, leaf in leaves.items() if math.prod(leaf[0]) >= devices.SHARDED}
        assert len(large) == 2, sorted(leaves)  # the second convolution and the dense layer
        for whole, shards in large.values():
            assert [math.prod(shard) for shard in shards] == [math.prod(whole) // 4] * 8
        for whole, shards in (leaf for path, leaf in leaves.items() if path not in large):
            assert shards == [whole] * 8
    assert all(shards == [whole] * 8 for whole, shards in divided.shapes[when]["stats"].values())


@pytest.mark.slow
def test_a_divided_checkpoint_continues_and_evaluates_whole_on_one_device(divided, make):
    workdir = divided.place / "handed"
    assert json.loads((workdir / "summary.json").read_text())["stopped"] == "signal"
    summary = train(make(**LARGE), workdir)
    alike(workdir, divided.place / "1")
    expected = json.loads((divided.place / "4" / "summary.json").read_text())
    assert summary["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=2e-3)
    assert evaluate(divided.place / "4", "test")["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-5)


@pytest.mark.parametrize("fsdp", [2, 3])
def test_devices_that_fsdp_does_not_divide_are_one_line(fsdp):
    with pytest.raises(
        ConfigError, match=f"mesh.fsdp={fsdp} does not divide the 1 devices; use --config.mesh.fsdp=1"
    ) as error:
        runtime.mesh(fsdp=fsdp)
    assert len(str(error.value).splitlines()) == 1


# Batches in parts

PARTS = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_sharding import after_steps
print(json.dumps(after_steps(int(sys.argv[1]))))
"""


@functools.cache
def after_steps(parts: int, **options) -> dict:
    """Losses of some steps on random images, the parameters after them as one list, and how often the step was compiled."""
    config = tiny("unused", "unused", optimizer__name="sgd", data__batch_size=32, train__accumulate=parts, **options)
    mesh = runtime.mesh()
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 4, 1))
    compiled = steps.compile_steps(network, tx, mesh, config)
    initial = functools.partial(state.initial, network, tx, ema=bool(config.train.ema_decay))
    current = jax.jit(initial, out_shardings=models.shardings(jax.eval_shape(initial), mesh))()
    rng = np.random.default_rng(0)
    losses, params, averages = [], [jax.device_get(current.params)], [jax.device_get(current.ema)]
    for _ in range(6):
        batch = {
            "image": rng.integers(0, 256, (32, 16, 16, 3), dtype=np.uint8),
            "label": rng.integers(0, 2, 32).astype(np.int32),
        }
        current, values = compiled.train(current, pipeline.put(batch, runtime.batched(mesh)))
        losses.append(float(values["loss"]))
        params.append(jax.device_get(current.params))
        averages.append(jax.device_get(current.ema))
    flat = [float(x) for leaf in jax.tree.leaves(params[-1]) for x in np.ravel(leaf)]
    out = {"losses": losses, "flat": flat, "compiled": compiled.train._cache_size()}
    return out if jax.device_count() > 1 else {**out, "params": params, "averages": averages}


@pytest.mark.slow
def test_a_batch_in_four_parts_gives_the_update_of_the_whole():
    whole, parts = after_steps(1), after_steps(4)
    assert parts["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    np.testing.assert_allclose(parts["flat"], whole["flat"], atol=1e-6)
    assert (
        np.abs(np.array(whole["flat"]) - np.concatenate([np.ravel(x) for x in jax.tree.leaves(whole["params"][0])])).max()
        > 1e-4
    )
    assert whole["compiled"] == parts["compiled"] == 1


@pytest.mark.slow
def test_a_batch_in_parts_on_eight_devices_gives_the_update_of_one():
    whole, parts = after_steps(1), on_devices(8, PARTS, 4)
    assert parts["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    np.testing.assert_allclose(parts["flat"], whole["flat"], atol=1e-6)
    assert parts["compiled"] == 1


# Averaged weights


@pytest.mark.slow
def test_the_average_is_that_of_a_plain_recomputation():
    run = after_steps(1, train__ema_decay=0.3)
    expected = run["params"][0]
    for step, params in enumerate(run["params"][1:]):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, params)
        assert largest(run["averages"][step + 1], expected) < 1e-6
    assert largest(run["averages"][-1], run["params"][-1]) > 1e-5


def test_averaging_does_not_touch_the_training():
    plain, averaged = after_steps(1), after_steps(1, train__ema_decay=0.3)
    assert plain["losses"] == averaged["losses"] and plain["flat"] == averaged["flat"]
    assert plain["averages"][-1] == {}


@pytest.fixture(scope="module")
def averaged(make, tmp_path_factory):
    """Runs with and without averaged weights."""
    place = tmp_path_factory.mktemp("averaged")
    for name, decay in (("none", 0.0), ("averaged", 0.9)):
        train(make(train__ema_decay=decay, train__epochs=2), place / name)
    return place


@pytest.mark.slow
def test_the_history_of_averaged_weights_has_the_others_beside(averaged):
    rows, plain = (read_rows(averaged / name / "history.csv") for name in ("averaged", "none"))
    assert list(rows[0])[-2:] == ["raw_val_loss", "raw_val_accuracy"] and not [k for k in plain[0] if k.startswith("raw")]
    for row, other in zip(rows, plain, strict=True):
        assert (row["loss"], row["raw_val_loss"]) == (other["loss"], other["val_loss"])
        assert row["raw_val_accuracy"] == other["val_accuracy"] and row["val_loss"] != other["val_loss"]


@pytest.mark.slow
def test_evaluation_and_prediction_use_the_averaged_weights(averaged, make, cell_folder):
    workdir, config = averaged / "averaged", make(train__ema_decay=0.9, train__epochs=2)
    mesh = runtime.mesh()
    network = network_of(config, 2)
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        step = saved.resolve("best")
        weights = saved.load(step, {"model": network.abstract(mesh, ema=True)})["model"]
    assert largest(weights["ema"], weights["params"]) > 1e-4
    paths = sorted(map(str, cell_folder.rglob("*.png")))[:8]
    predictions = cnnjax.load(workdir).predict(paths)
    images = np.stack([images_lib.decode_resized(Path(p).read_bytes(), 16, config.image.resize)[0] for p in paths])
    for name, same in (("ema", True), ("params", False)):
        model = {"params": weights[name], "stats": weights["stats"]}
        logits = inference.Engine(inference.compile_logits(network, mesh), model, mesh).logits(images)
        p = metrics.probabilities(logits)[:, 1]
        found = np.array([q.probabilities["Uninfected"] for q in predictions])
        assert np.allclose(p, found, atol=1e-5) == same
    val = json.loads((workdir / "eval" / "val.json").read_text())["loss"]
    best = next(row for row in read_rows(workdir / "history.csv") if int(row["step"]) == step)
    assert val == pytest.approx(float(best["val_loss"]), rel=1e-5)
