"""One update: equal to one written by hand, the same on any number of devices, compiled once."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from optax import contrib
from training_tools import child, network_of, settings, tiny

from cnnjax import pages, runtime
from cnnjax.commands.train import train
from cnnjax.errors import TrainingError
from cnnjax.training import feeds as pipeline
from cnnjax.training import optimizers, state, steps


def tiny_net(**overrides):
    options = {"image__size": 8, "model__channels": (3,), "model__dense": (5,), "optimizer__epsilon": 1e-3}
    return settings(**{**options, **overrides})


def a_batch(classes, count=8, size=8):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, classes, count).astype(np.int32),
    }


def compiled(config, classes):
    network = network_of(config, classes)
    tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 10, 10))
    mesh = runtime.mesh()
    first = jax.jit(lambda: state.initial(network, tx), out_shardings=runtime.replicated(mesh))()
    return steps.compile_steps(network, tx, mesh, config), first, mesh


def reference_loss(params, batch):
    """The tiny network, written out."""
    x = batch["image"].astype(np.float32) / 255
    conv = params["conv1"]
    x = lax.conv_general_dilated(x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(x + conv["bias"][None, None, None])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"][None])
    z = x @ params["outputs"]["kernel"] + params["outputs"]["bias"][None]
    if z.shape[1] == 1:
        z = jnp.concatenate([jnp.zeros_like(z), z], axis=1)
    return -jax.nn.log_softmax(z)[np.arange(len(z)), batch["label"]].mean()


def _parts(params):
    """Kernels of all layers but the last, and the rest."""
    return {
        name: jax.tree.map(lambda x, name=name: "matrix" if x.ndim > 1 and name != "outputs" else "rest", layer)
        for name, layer in params.items()
    }


def _muon():
    """Muon by optax' iteration on the whole matrix, with updates as large as those of Adam."""
    dimensions = {2: contrib.MuonDimensionNumbers(0, 1), 4: contrib.MuonDimensionNumbers((0, 1, 2), 3)}
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    numbers = lambda tree: jax.tree.map(lambda x: x if masked(x) else dimensions[x.ndim], tree, is_leaf=masked)  # noqa: E731
    sized = lambda x: x * 0.2 * np.sqrt(max(np.prod(x.shape[:-1]), x.shape[-1]))  # noqa: E731
    return optax.chain(
        optax.trace(0.9, nesterov=True),
        contrib.scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=numbers),
        optax.stateless(lambda updates, params: jax.tree.map(sized, updates)),
    )


REFERENCES = {
    "adam": ({}, lambda: optax.adam(0.01, eps=1e-3)),
    "adamw": (
        {"optimizer__weight_decay": 0.1},
        lambda: optax.adamw(0.01, eps=1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    ),
    "sgd": ({}, lambda: optax.sgd(0.01, momentum=0.9, nesterov=True)),
    "muon": (
        {"optimizer__weight_decay": 0.1},
        lambda: optax.chain(
            optax.partition({"matrix": _muon(), "rest": optax.scale_by_adam(eps=1e-3)}, _parts),
            optax.add_decayed_weights(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
            optax.scale(-0.01),
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, classes, clip",
    [
        ("adam", 2, 0.05),
        ("adam", 3, 0.0),
        ("adamw", 2, 0.0),
        ("adamw", 3, 0.05),
        ("sgd", 2, 0.05),
        ("sgd", 3, 0.0),
        ("muon", 2, 0.05),
        ("muon", 3, 0.0),
    ],
)
def test_updates_equal_a_reference_written_by_hand(name, classes, clip):
    overrides, reference = REFERENCES[name]
    config = tiny_net(optimizer__name=name, optimizer__learning_rate=0.01, optimizer__clip_norm=clip, **overrides)
    run, current, mesh = compiled(config, classes)
    batch = a_batch(classes)
    params = jax.device_get(current.params)
    tx = optax.chain(optax.clip_by_global_norm(clip), reference()) if clip else reference()
    opt_state = tx.init(params)

    @jax.jit
    def update(params, opt_state):
        expected_loss, gradient = jax.value_and_grad(reference_loss)(params, batch)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, expected_loss

    for _ in range(3):
        before = params
        params, opt_state, expected_loss = update(params, opt_state)
        current, values = run.train(current, pipeline.put(batch, runtime.batched(mesh)))
        assert float(values["loss"]) == pytest.approx(float(expected_loss), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), current.params, params)
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(params), strict=True))
    assert int(current.step) == 3


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4])
def test_steps_lower_the_loss_and_add_up_the_epoch(classes):
    run, current, mesh = compiled(tiny_net(optimizer__learning_rate=0.01), classes)
    batch = a_batch(classes)
    seen = []
    for _ in range(40):
        current, values = run.train(current, pipeline.put(batch, runtime.batched(mesh)))
        seen.append((float(values["loss"]), float(values["accuracy"])))
    assert seen[-1][0] < 0.8 * seen[0][0]
    sums = {name: float(value) for name, value in current.sums.items()}
    assert sums["count"] == 40 * 8
    assert sums["loss"] == pytest.approx(8 * sum(loss for loss, _ in seen), rel=1e-5)
    assert sums["correct"] == pytest.approx(8 * sum(accuracy for _, accuracy in seen))


def test_scale_is_a_factor_on_the_update():
    run, current, mesh = compiled(tiny_net(), 2)
    batch = pipeline.put(a_batch(2), runtime.batched(mesh))
    start = jax.device_get(current)
    full = jax.device_get(run.train(current, batch)[0])
    quarter = jax.device_put(start.replace(scale=np.float32(0.25)), runtime.replicated(mesh))
    quarter = jax.device_get(run.train(quarter, batch)[0])
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(c - a, 0.25 * (b - a), atol=1e-6), start.params, full.params,
                 quarter.params)  # fmt: skip


@pytest.mark.slow
def test_randomness_is_a_function_of_seed_and_step():
    weights = jax.device_get(network_of(tiny_net(), 2).make()[0])

    def losses(seed, at):
        run, current, mesh = compiled(tiny_net(seed=seed, model__dropout_features=0.5, augment__rotation=30.0), 2)
        start = jax.device_get(current).replace(params=weights)
        batch = pipeline.put(a_batch(2), runtime.batched(mesh))
        starts = [jax.device_put(start.replace(step=np.int32(step)), runtime.replicated(mesh)) for step in at]
        return [float(run.train(s, batch)[1]["loss"]) for s in starts]

    five, six, again = losses(0, (5, 6, 5))
    assert five == again
    assert len({five, six, *losses(1, (5,))}) == 3


# Everything that draws random numbers or carries state, by XLA's kernels, which all machines have.
GOLDEN = dict(image__size=12, model__channels=(4, 8), model__norm="batch", model__dense=(16,), model__dropout_dense=0.3,
              augment__brightness=0.2, augment__flip_horizontal=True, train__ema_decay=0.9,
              train__label_smoothing=0.1, optimizer__name="adamw", optimizer__weight_decay=0.01, optimizer__clip_norm=1.0,
              optimizer__learning_rate=0.01, runtime__kernels="xla")  # fmt: skip
GOLDEN_NUMBERS = {
    "loss of step 1": 2.0922224521636963,
    "loss of step 2": 1.5385680198669434,
    "length of params": 7.2435734773700675,
    "length of stats": 2.978830936646917,
    "length of ema": 7.821981665462768,
    "first parameter": -0.11407493054866791,
    "correct of both steps": 12.0,
}


@pytest.mark.slow
def test_two_steps_on_fixed_images_give_the_golden_numbers():
    """A difference means that runs of users train to other numbers, and no longer continue as they began.

    Where that is intended, say why in the commit, and write the new numbers here. Else look at what is named: the loss of the
    first step is the random streams, augmentation, the initial weights and the forward pass; the parameters are the gradients
    and the optimizer.
    """
    config = settings(**GOLDEN)
    network = network_of(config, 3)
    tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 10, 10))
    quick = runtime.compiler_options("cpu", once=True)
    step = jax.jit(
        functools.partial(steps.train_step, network=network, tx=tx, recipe=steps.recipe(config)), compiler_options=quick
    )
    current = jax.jit(lambda: state.initial(network, tx, ema=True), compiler_options=quick)()
    rng = np.random.Generator(np.random.Philox(0))
    batch = {"image": rng.integers(0, 256, (16, 12, 12, 3), dtype=np.uint8), "label": np.arange(16, dtype=np.int32) % 3}
    found = {}
    for number in (1, 2):
        current, values = step(current, batch)
        found[f"loss of step {number}"] = float(values["loss"])
    for name in ("params", "stats", "ema"):
        leaves = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(getattr(current, name))]
        found[f"length of {name}"] = float(np.linalg.norm(np.concatenate(leaves)))
    found["first parameter"] = float(jax.tree.leaves(current.params)[0].ravel()[0])
    found["correct of both steps"] = float(current.sums["correct"])
    assert found == pytest.approx(GOLDEN_NUMBERS, rel=2e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_compiles_its_step_once(cell_folder, isolated_cache, tmp_path, monkeypatch):
    made = []
    compile_steps = steps.compile_steps

    def remember(*arguments):
        made.append(compile_steps(*arguments))
        return made[-1]

    monkeypatch.setattr(steps, "compile_steps", remember)
    config = tiny(cell_folder, isolated_cache, optimizer__schedule="plateau", optimizer__plateau_patience=0,
                  model__norm="batch", augment__flip_horizontal=True)  # fmt: skip
    log = tmp_path / "run" / "metrics.jsonl"
    with pytest.raises(Exception, match="stopped at step"):
        train(config, tmp_path / "run", stop=lambda: log.exists() and len(log.read_text().splitlines()) >= 12)
    train(config, tmp_path / "run")
    assert [run.train._cache_size() for run in made] == [1, 1]  # before and after it was restored
    assert [run.logits._cache_size() for run in made] == [1, 1]


def rate(step, steps_per_epoch=10, epochs=10, **options):
    config = settings(optimizer__learning_rate=0.2, **{f"optimizer__{key}": value for key, value in options.items()})
    return float(optimizers.make_schedule(config.optimizer, steps_per_epoch, epochs)(step))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"schedule": "constant"}, {0: 0.2, 50: 0.2, 99: 0.2}),
        ({"schedule": "plateau"}, {0: 0.2, 99: 0.2}),
        ({"schedule": "cosine"}, {0: 0.2, 25: 0.1 * (1 + 0.5**0.5), 50: 0.1, 100: 0.0}),
        (
            {"schedule": "step", "decay_epochs": 3.0, "decay_factor": 0.5},
            {0: 0.2, 29: 0.2, 30: 0.1, 59: 0.1, 60: 0.05, 90: 0.025},
        ),
        ({"schedule": "constant", "warmup_epochs": 2.0}, {0: 0.0, 5: 0.05, 10: 0.1, 20: 0.2, 99: 0.2}),
        ({"schedule": "cosine", "warmup_epochs": 2.0}, {0: 0.0, 10: 0.1, 20: 0.2, 60: 0.1, 100: 0.0}),
        ({"schedule": "cosine", "warmup_epochs": 0.5}, {0: 0.0, 1: 0.04, 5: 0.2, 100: 0.0}),
        ({"schedule": "step", "decay_epochs": 3.0, "warmup_epochs": 1.0}, {5: 0.1, 10: 0.2, 39: 0.2, 40: 0.02}),
    ],
)
def test_schedules_have_the_rates_of_their_definition(options, expected):
    assert {step: rate(step, **options) for step in expected} == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_warm_up_longer_than_training_only_rises(schedule):
    rates = [rate(step, epochs=2, schedule=schedule, warmup_epochs=3.0) for step in range(20)]
    assert all(a < b for a, b in itertools.pairwise(rates)) and rates[-1] < 0.2


def test_a_lack_of_memory_is_one_line_with_advice():
    line = r"^no memory left on the device for .* GB; use a smaller batch$"
    with pytest.raises(TrainingError, match=line), runtime.readable_shortage("use a smaller batch"):
        jnp.zeros((2**20, 2**24)).block_until_ready()


KEPT = """
import json, sys
import jax
from cnnjax import runtime
hits = []
jax.monitoring.register_event_listener(lambda name, **more: name.endswith("cache_hits") and hits.append(name))
runtime.keep_compiled(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 2 + 1)(1.0)
print(json.dumps(len(hits)))
"""


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_the_next_process(tmp_path):
    def hits(place, **environment):
        done = child(["-c", KEPT, str(place)], **{"JAX_COMPILATION_CACHE_DIR": "", **environment})
        assert done.returncode == 0 and not done.stderr, done.stderr
        return json.loads(done.stdout)

    assert [hits(tmp_path / "cache") for _ in range(2)] == [0, 1]
    (tmp_path / "file").touch()
    assert [hits(tmp_path / "file") for _ in range(2)] == [0, 0]  # no place to keep it: nobody needs to know
    assert hits(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == 0


def test_the_time_of_a_run_in_words():
    spent = {
        "input": 1.0,
        "compile": 4.0,
        "step": 49.0,
        "evaluation": 5.0,
        "checkpoint": 0.02,
        "pictures": 0.0,
        "augmentation": 9.0,
    }
    text = pages.time_text({"spent": spent})
    assert (
        text
        == "training 49.0 s, evaluation 5.0 s, compiling 4.0 s, input 1.0 s; waiting for images took 2.0 % of the training"
    )
