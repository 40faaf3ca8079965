"""Frozen parameters, their unfreezing at an epoch, and learning rates that fall towards the first layer."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from training_tools import Said, losses, network_of, on_devices, one_line, settings

import cnnjax
from cnnjax import checkpoints, models, pages, runs, runtime
from cnnjax.errors import ConfigError, Stopped
from cnnjax.kernels import PLAIN
from cnnjax.training import finetuning, optimizers, state, steps

QUICK = runtime.compiler_options("cpu", once=True)
flat = functools.partial(traverse_util.flatten_dict, sep=".")


def small(**overrides):
    """A convnet of two normalised convolutions at 8 pixels."""
    options = {"image__size": 8, "model__channels": (3, 4), "model__dense": (5,), "model__norm": "batch", "runtime__kernels": "xla",
               "optimizer__learning_rate": 0.01, "optimizer__epsilon": 1e-12}  # fmt: skip
    return settings(**{**options, **overrides})


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), "label": np.arange(8, dtype=np.int32) % 3}


@functools.cache
def residual():
    return network_of(settings(model__name="resnet18", image__size=32), 3)


def begun(config, steps_per_epoch=2):
    """A network of three classes with drawn weights, its optimizer, and its first state on the host."""
    network, rng = network_of(config, 3), np.random.default_rng(0)

    def drawn(path, shape):
        return np.float32(rng.normal(0, 0.3, shape.shape) if len(shape.shape) > 1 else path[-1].key in ("scale", "var"))

    weights = jax.tree_util.tree_map_with_path(
        lambda path, x: np.broadcast_to(drawn(path, x), x.shape).copy(), network.shapes
    )
    network = dataclasses.replace(network, make=lambda: weights)
    rate = optimizers.make_schedule(config.optimizer, steps_per_epoch, config.train.epochs)
    tx = finetuning.tuned_optimizer(config, network, rate, steps_per_epoch)
    first = jax.jit(lambda: state.initial(network, tx, ema=bool(config.train.ema_decay)), compiler_options=QUICK)()
    return network, tx, on_host(first)


def on_host(tree):
    """Copies of arrays, whose memory no update takes."""
    return jax.tree.map(np.array, tree)


def trained(config, count, steps_per_epoch=2, first=lambda state: state):
    """The states before each of `count` updates and after the last, and the losses; `first` changes the first state."""
    network, tx, began = begun(config, steps_per_epoch)
    mesh = runtime.mesh(fsdp=config.mesh.fsdp)
    run = steps.compile_steps(network, tx, mesh, config)
    shown = jax.device_put(batch(), runtime.batched(mesh))
    program = functools.cache(lambda jitted: jitted.lower(run.abstract, shown, None).compile(compiler_options=QUICK))
    states, values = [first(began)], []
    for step in range(count):
        current = jax.device_put(jax.tree.map(np.array, states[-1]), models.shardings(began, mesh))
        after, found = program(run.at(step)[1])(current, shown, None)
        states.append(on_host(after))
        values.append(float(found["loss"]))
    return states, values


def same(a, b):
    """Names of the leaves of two trees that are equal bit by bit."""
    b = flat(b)
    return {name for name, leaf in flat(a).items() if np.array_equal(leaf, b[name])}


# Which parameters are frozen


@pytest.mark.parametrize(
    ("text", "frozen"),
    [
        ("", set()),
        ("conv1", {"conv1.kernel"}),
        ("conv.", {"conv1.kernel", "conv2.kernel"}),
        (r"norm_conv2|.*\.kernel", {"norm_conv2.scale", "norm_conv2.bias", "conv1.kernel", "conv2.kernel", "dense1.kernel", "outputs.kernel"}),
        ("backbone", {"conv1.kernel", "norm_conv1.scale", "norm_conv1.bias", "conv2.kernel", "norm_conv2.scale", "norm_conv2.bias",
                      "dense1.kernel", "dense1.bias"}),
    ],
)  # fmt: skip
def test_a_pattern_names_whole_modules_and_parameters(text, frozen):
    assert {".".join(path) for path in finetuning.frozen_paths(text, network_of(small(), 3))} == frozen


@pytest.mark.parametrize(("text", "wrong"), [("onv1", "matches no parameter"), ("layer4", "matches no parameter"), (".*", "matches every parameter")])  # fmt: skip
def test_a_pattern_of_nothing_or_of_all_is_one_line_with_names(text, wrong):
    with pytest.raises(ConfigError) as error:
        finetuning.frozen_paths(text, network_of(small(), 3))
    assert f"train.freeze={text}: {wrong}; use backbone" in one_line(
        error
    ) and "conv1, norm_conv1, conv2, ..., outputs" in one_line(error)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"train__freeze": "conv("}, "train.freeze='conv(': is not a regular expression"),
        ({"train__unfreeze_epoch": 2}, "train.unfreeze_epoch=2: has no effect without train.freeze; add --config.train.freeze=backbone"),
        ({"train__freeze": "backbone", "train__unfreeze_epoch": 1}, "train.unfreeze_epoch=1: must be at least 2 and at most train.epochs=30"),
        ({"train__freeze": "backbone", "train__unfreeze_epoch": 31}, "train.unfreeze_epoch=31: must be at least 2 and at most train.epochs=30"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_one_line(given, line):
    with pytest.raises(ConfigError) as error:
        settings(**given)
    assert line in one_line(error)


# One update


def test_frozen_parameters_have_no_state_of_the_optimizer():
    _, _, first = begun(small(train__freeze=r"conv1|norm_conv1", optimizer__name="adamw", optimizer__weight_decay=0.1))
    moments = next(part for part in first.opt_state if isinstance(part, optax.ScaleByAdamState))
    assert set(flat(first.params)) - set(flat(moments.mu)) == {"conv1.kernel", "norm_conv1.scale", "norm_conv1.bias"}


def test_the_others_are_updated_as_if_nothing_were_frozen():
    options = {"model__norm": "none", "optimizer__name": "sgd", "model__dense": ()}
    (before, after), _ = trained(small(**options), 1)
    (_, partly), _ = trained(small(**options, train__freeze="conv1"), 1)
    assert same(before.params, partly.params) >= {"conv1.kernel", "conv1.bias"} and not same(before.params, after.params)
    for name in ("conv2.kernel", "outputs.kernel", "outputs.bias"):
        np.testing.assert_allclose(flat(partly.params)[name], flat(after.params)[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("freeze", "convolutions"), [("", 5), ("conv1|norm_conv1", 3), ("backbone", 2)])
def test_below_the_first_trained_layer_there_is_no_backward_pass(freeze, convolutions):
    config = small(train__freeze=freeze)
    network, tx, first = begun(config)
    text = steps.compile_steps(network, tx, runtime.mesh(), config).train.lower(first, batch(), None).as_text()
    assert (
        text.count("stablehlo.convolution") == convolutions
    )  # 2 forward; of each trained one, its kernel's gradient and its input's


def test_frozen_statistics_are_used_and_kept_in_training():
    config = small(train__frozen_statistics=True, model__channels=(3,), model__dense=())
    shifted = lambda first: first.replace(stats=jax.tree.map(lambda x: x + np.float32(0.1), first.stats))  # noqa: E731
    (before, after), (loss,) = trained(config, 1, first=shifted)
    logits = nnx.merge(network_of(config, 3).eval_def, before.params, before.stats)(batch()["image"])
    labels = jax.nn.one_hot(batch()["label"], 3)
    assert loss == pytest.approx(-float((jax.nn.log_softmax(logits) * labels).sum()) / 8, rel=1e-5)
    assert same(before.stats, after.stats) == set(flat(before.stats)) and not same(before.params, after.params)


def test_frozen_statistics_of_a_network_without_norms_are_said_to_have_no_effect():
    config = small(model__norm="none", train__frozen_statistics=True)
    network, tx, _ = begun(config)
    assert finetuning.tuning_lines(config, network, tx) == [
        "train.frozen_statistics has no effect: convnet has no batch normalisation"
    ]


@pytest.mark.parametrize(("freeze", "held"), [("backbone", 20), ("block[12]_.*", 9), (r".*\.scale", 0), ("", 0)])
def test_norms_within_blocks_are_held_where_all_of_their_parameters_are_frozen(freeze, held):
    network = residual()
    trained = finetuning.still(network, finetuning.frozen_paths(freeze, network), statistics=False)
    modules = nnx.iter_modules(nnx.merge(trained.train_def, *network.shapes))
    assert sum(module.use_running_average for _, module in modules if isinstance(module, nnx.BatchNorm)) == held


# Unfreezing


def test_up_to_its_epoch_a_part_stays_bit_by_bit_and_then_is_trained_with_averages_that_begin_there():
    config = small(train__freeze="backbone", train__unfreeze_epoch=2, train__epochs=2, train__ema_decay=0.5, optimizer__clip_norm=10.0,
                   optimizer__schedule="cosine", model__channels=(4,), model__dense=())  # fmt: skip
    states, _ = trained(config, 4)
    assert len({jax.tree.structure(s) for s in states}) == 1
    body, norms = {"conv1.kernel", "norm_conv1.scale", "norm_conv1.bias"}, {"norm_conv1.mean", "norm_conv1.var"}
    for before, after, held, kept in zip(
        states, states[1:], (body, body, set(), set()), (norms, norms, set(), set()), strict=False
    ):
        assert (
            same(before.params, after.params) == same(after.params, after.ema) == held
            and same(before.stats, after.stats) == kept
        )
    # Adam's first update of a parameter is its learning rate up or down: half of a cosine is over.
    moved = np.abs(flat(states[3].params)["conv1.kernel"] - flat(states[2].params)["conv1.kernel"])
    np.testing.assert_allclose(moved, 0.005, rtol=1e-3)


def test_gradients_of_both_parts_are_clipped_by_one_norm():
    config = small(train__freeze="conv1", train__unfreeze_epoch=2, optimizer__clip_norm=1.0, optimizer__name="sgd", optimizer__beta1=0.0,
                   optimizer__learning_rate=1.0)  # fmt: skip
    _, tx, first = begun(config, steps_per_epoch=1)
    new, _ = jax.jit(tx.update)(jax.tree.map(np.ones_like, first.params), first.opt_state, first.params, np.float32(1))
    moved = jax.tree.map(lambda a, b: np.square(a - b).sum(), new, first.params)
    assert sum(jax.tree.leaves(moved)) == pytest.approx(1, rel=1e-5)


# Learning rates of layers


def test_the_rate_falls_from_the_last_layer_to_the_first():
    factors = flat(traverse_util.unflatten_dict(finetuning.layer_factors(0.5, network_of(small(), 3))))
    assert (factors["outputs.kernel"], factors["dense1.bias"]) == (1, 0.5)
    assert (
        factors["conv2.kernel"] == factors["norm_conv2.scale"] == 0.25
        and factors["conv1.kernel"] == factors["norm_conv1.bias"] == 0.125
    )
    resnet = finetuning.layer_factors(0.9, residual())
    assert resnet["conv1", "kernel"] == resnet["norm1", "scale"] == pytest.approx(0.9**9)  # eight blocks, and the last layer
    assert (
        resnet["block4_2", "conv2", "kernel"] == pytest.approx(0.9)
        and finetuning.layer_factors(1.0, network_of(small(), 3)) == {}
    )


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_an_update_is_multiplied_by_the_factor_of_its_layer(name):
    section = small(optimizer__name=name, optimizer__weight_decay=0.1, optimizer__beta1=0.0).optimizer
    rng = np.random.default_rng(0)
    params, grads = ({"first": {"kernel": jnp.float32(rng.normal(size=(260, 260)))}, "last": {"bias": jnp.float32(rng.normal(size=3))}}
                     for _ in range(2))  # fmt: skip
    plain, decayed = (
        optimizers.make_optimizer(section, lambda step: 0.01, factors) for factors in ({}, {("first", "kernel"): 0.25})
    )
    for ops in (
        PLAIN,
        runtime.ops(settings().runtime, "cpu"),
    ):  # large parameters are updated by a kernel, where there is one
        whole, part = (tx.update(grads, tx.init(params), params, jnp.float32(1), ops=ops)[0] for tx in (plain, decayed))
        np.testing.assert_array_equal(whole["last"]["bias"], part["last"]["bias"])
        expected = params["first"]["kernel"] + 0.25 * (whole["first"]["kernel"] - params["first"]["kernel"])
        np.testing.assert_allclose(part["first"]["kernel"], expected, atol=1e-6)


# A run

WARM = {"train__freeze": "backbone", "train__unfreeze_epoch": 2, "train__epochs": 2, "train__ema_decay": 0.9, "model__norm": "batch",
        "optimizer__layer_decay": 0.7, "optimizer__clip_norm": 1.0}  # fmt: skip


def weights(workdir, config):
    """The trees of the newest checkpoint."""
    network = network_of(config, 2)
    with checkpoints.Checkpoints(runs.RunDirectory(workdir)) as saved:
        return saved.load(saved.latest(), {"model": network.abstract(runtime.mesh(), ema=True)})["model"]


@pytest.mark.slow
def test_a_run_stopped_at_the_unfreezing_ends_as_one_that_was_not(make, tmp_path, without_pictures):
    config = make(**WARM)
    cnnjax.train(config, tmp_path / "whole")
    log = tmp_path / "parts" / "metrics.jsonl"
    with pytest.raises(Stopped):  # the first epoch has eight steps, and a row when it ends
        cnnjax.train(config, log.parent, stop=lambda: log.exists() and len(log.read_text().splitlines()) >= 9)
    assert runs.RunDirectory(log.parent).read_summary().steps == 8
    cnnjax.train(config, log.parent)
    assert losses(log.parent) == losses(tmp_path / "whole")
    ended, expected = (weights(path, config) for path in (log.parent, tmp_path / "whole"))
    assert jax.tree.all(jax.tree.map(np.array_equal, ended, expected))


def test_a_run_says_what_is_frozen_and_its_patience_begins_where_all_is_trained(make, tmp_path, without_pictures):
    config, said = (
        make(
            train__freeze="backbone",
            train__unfreeze_epoch=3,
            train__epochs=4,
            train__patience=1,
            optimizer__learning_rate=1e-30,
        ),
        Said(),
    )
    summary = cnnjax.train(config, tmp_path / "run", progress=said).summary
    assert summary["epochs"] == 3 and summary["trained_parameters"] == summary["parameters"] == 2489
    at = said.lines.index("  all layers are trained from here (train.unfreeze_epoch=3)")
    assert "  2,472 of 2,489 parameters are frozen up to epoch 2 (train.freeze=backbone)" in said.lines[:at]
    rows = json.loads((tmp_path / "run" / "network.json").read_text())
    assert {row["name"]: row["frozen"] for row in rows if row["frozen"]} == {"conv1": 112, "conv2": 296, "dense1": 2064}


def test_a_network_of_which_a_part_is_frozen_is_described_so(make, tmp_path):
    text = cnnjax.describe(make(train__freeze="conv1"), tmp_path / "run")
    line = next(line for line in text.splitlines() if line.split()[:1] == ["conv1"])
    assert line.split()[-3:-1] == ["112", "112"] and "parameters  frozen" in text
    assert "frozen  " not in pages.network_table(models.table(network_of(small(), 3).model))


def test_a_range_test_trains_all_that_is_trained_at_last(make, tmp_path):
    said = Said()
    with pytest.raises(Stopped):
        cnnjax.lr_find(make(**WARM), tmp_path / "run", progress=said, stop=lambda: True)
    assert "  all layers are trained here, as from epoch 2 of a training on" in said.lines


DIVIDED = """
import json, sys
from test_finetuning import flat, small, trained
options = dict(train__freeze="backbone", train__unfreeze_epoch=2, train__epochs=2, train__ema_decay=0.9, optimizer__layer_decay=0.7,
               optimizer__clip_norm=1.0, optimizer__epsilon=1e-3, model__channels=(16, 32))
runs = [trained(small(**options, mesh__fsdp=fsdp), 4) for fsdp in (1, 2)]
print(json.dumps([[values, [float(abs(x).sum()) for x in flat(states[-1].ema).values()]] for states, values in runs]))
"""


@pytest.mark.slow
def test_frozen_parameters_that_are_divided_among_devices_train_as_whole_ones():
    code = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{DIVIDED}"
    whole, divided = on_devices(2, code)
    for a, b in zip(whole, divided, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4)
