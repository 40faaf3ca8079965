"""Residual networks: their tables, what they compute against the definition, and how they train."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from precision_tools import in_both_precisions
from training_tools import network_of, on_devices, read_rows, settings

from cnnjax import checkpoints, inference, models, runtime
from cnnjax.errors import Stopped
from cnnjax.kernels import PLAIN
from cnnjax.models import resnet
from cnnjax.runs import RunDirectory
from cnnjax.training import optimizers, state, steps

train = importlib.import_module("cnnjax.commands.train").train
evaluate = importlib.import_module("cnnjax.commands.evaluate").evaluate

FIRST = [("conv1", (112, 112, 64), 9408), ("norm1", (112, 112, 64), 128), ("pool1", (56, 56, 64), 0)]
BLOCKS = [("block1_1", (56, 56, 64), 73_984), ("block1_2", (56, 56, 64), 73_984), ("block2_1", (28, 28, 128), 230_144),
          ("block2_2", (28, 28, 128), 295_424), ("block3_1", (14, 14, 256), 919_040), ("block3_2", (14, 14, 256), 1_180_672),
          ("block4_1", (7, 7, 512), 3_673_088), ("block4_2", (7, 7, 512), 4_720_640)]  # fmt: skip
LAST = [("average", (512,), 0), ("outputs", (1000,), 513_000)]
# Of a network that has every kind of block and compiles in a second.
SMALL = {"depths": (2, 1, 1, 1), "widths": (4, 6, 8, 10)}
TINY = {"depths": (1,), "widths": (4,)}


def residual(name, size, classes=3, **model):
    return network_of(settings(model__name=name, image__size=size, **model), classes)


def random_images(count, size):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


# The table


@pytest.mark.parametrize(
    ("name", "parameters", "gigaflops"),
    [("resnet18", 11_689_512, 1.814), ("resnet34", 21_797_672, 3.664), ("resnet50", 25_557_032, 4.089)],
)
def test_parameters_and_work_are_those_of_torchvision(name, parameters, gigaflops):
    network = residual(name, 224, 1000)
    rows = models.table(network.model)
    params, _ = jax.eval_shape(network.make)
    assert sum(row.parameters for row in rows) == parameters == sum(p.size for p in jax.tree.leaves(params))
    # A multiplication with its addition is two operations here and one there.
    assert sum(row.mflops for row in rows) / 2000 == pytest.approx(gigaflops, abs=0.001)


def test_resnet18_layer_by_layer():
    rows = models.table(residual("resnet18", 224, 1000).model)
    assert [(row.name, row.shape, row.parameters) for row in rows] == FIRST + BLOCKS + LAST


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [("resnet18", 63, (63, 63, 8)), ("resnet18", 64, (32, 16, 2)), ("resnet50", 97, (49, 25, 4))],
)  # fmt: skip
def test_below_64_pixels_the_stem_keeps_the_size(name, size, stem):
    network = residual(name, size, 3, model__dropout_dense=0.2)
    rows = models.table(network.model)
    by_name = {row.name: row.shape[0] for row in rows}
    last = [row.shape[0] for row in rows if row.kind == "block"][-1]
    assert (by_name["conv1"], by_name["block1_1"], last) == stem and ("pool1" in by_name) == (size >= 64)
    assert [row.name for row in rows[-3:]] == ["average", "dropout", "outputs"]
    params, stats = jax.eval_shape(network.make)
    assert sum(row.parameters for row in rows) == sum(p.size for p in jax.tree.leaves(params))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    logits = jax.eval_shape(lambda p, s, x: nnx.merge(network.eval_def, p, s)(x), params, stats, random_images(2, size))
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)


def test_whitening_comes_first():
    rows = models.table(residual("resnet18", 8, image__zca=True).model)
    assert [row.name for row in rows[:2]] == ["whiten", "conv1"]


# What it computes


def convolve(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)), precision="highest",
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip


def by_definition(params, stats, images, training):
    """Logits and new statistics."""
    new = {}

    def normalise(x, p, s):
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if training else (s["mean"], s["var"])
        kept = {"mean": 0.9 * s["mean"] + 0.1 * mean, "var": 0.9 * s["var"] + 0.1 * var}
        per_channel = (v.reshape(1, 1, 1, -1) for v in (mean, p["scale"] / jnp.sqrt(var + 1e-5), p["bias"]))
        mean, scale, bias = per_channel
        return (x - mean) * scale + bias, kept

    x = convolve(images.astype(jnp.float32) / 255, params["conv1"]["kernel"])
    x, new["norm1"] = normalise(x, params["norm1"], stats["norm1"])
    x = jnp.maximum(x, 0)
    for name in sorted(name for name in params if name.startswith("block")):
        p, s, made = params[name], stats[name], {}
        halves = name.endswith("_1") and name != "block1_1"
        y = x
        for i, stride in enumerate((2, 1), 1):
            y = convolve(y, p[f"conv{i}"]["kernel"], stride if halves else 1)
            y, made[f"norm{i}"] = normalise(y, p[f"norm{i}"], s[f"norm{i}"])
            y = jnp.maximum(y, 0) if i == 1 else y
        if "projection" in p:
            x = convolve(x, p["projection"]["kernel"], 2 if halves else 1)
            x, made["norm_projection"] = normalise(x, p["norm_projection"], s["norm_projection"])
        x, new[name] = jnp.maximum(x + y, 0), made
    features = x.mean((1, 2))
    return features @ params["outputs"]["kernel"] + params["outputs"]["bias"].reshape(1, -1), new


def drawn(network):
    """Weights and statistics such that no scale is 0 or 1, no bias 0 and no statistic as at first."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 1:
            return jnp.asarray(rng.uniform(0.2, 1.2, leaf.shape), jnp.float32)
        return jnp.asarray(rng.standard_normal(leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5, jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(network.make))


def put_in_place(monkeypatch, **shape):
    """A small network as resnet18."""
    made = functools.partial(resnet.ResNet, block=resnet.basic, **(shape or SMALL))
    monkeypatch.setitem(models.MODELS, "resnet18", made)


def test_a_network_for_small_images_and_its_statistics_are_the_definition(monkeypatch):
    """PyTorch has no such stem; larger images are compared with it in test_parity.py."""
    put_in_place(monkeypatch)
    network = residual("resnet18", 19)
    params, stats = drawn(network)
    images = random_images(8, 19)

    @jax.jit
    def ours(params, stats, images):
        model = nnx.merge(network.train_def, params, stats)
        trained = model(images, nnx.Rngs(dropout=0))
        made = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return inference.logits_step({"params": params, "stats": stats}, images, network=network), trained, made

    evaluated, trained, made = ours(params, stats, images)
    expected = [jax.jit(functools.partial(by_definition, training=training))(params, stats, images)
                for training in (False, True)]  # fmt: skip
    scale = np.abs(expected[0][0]).max()
    np.testing.assert_allclose(evaluated, expected[0][0], atol=1e-5 * scale)
    np.testing.assert_allclose(trained, expected[1][0], atol=1e-4 * scale)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), made, expected[1][1])


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (3, 1), (5, 2)])
def test_a_convolution_of_a_tiny_image_is_one(size, stride):
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: resnet.Conv(6, 5, 3, stride, jnp.float32, PLAIN, nnx.Rngs(0))))
    out = -(-size // stride)
    shapes = (2, size, size, 6), (3, 3, 6, 5), (2, out, out, 5)
    rng = np.random.default_rng(0)
    x, kernel, weight = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)

    def ours(x, kernel):
        nnx.replace_by_pure_dict(abstract, {"kernel": kernel})
        return nnx.merge(graphdef, abstract)(x)

    def both(f):
        return jax.jit(lambda x, kernel: (f(x, kernel), jax.grad(lambda *a: (f(*a) * weight).sum(), (0, 1))(x, kernel)))

    found, expected = (both(f)(x, kernel) for f in (ours, lambda x, kernel: convolve(x, kernel, stride)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


def test_bfloat16_gives_float32_logits_near_those_of_float32_and_keeps_statistics_exact(monkeypatch):
    put_in_place(monkeypatch)
    options = {"runtime__kernels": "xla"}
    in_both_precisions(lambda precision: residual("resnet18", 32, train__precision=precision, **options), drawn,
                       random_images(8, 32), 0.05)  # fmt: skip


def test_blocks_begin_as_the_identity_and_weights_as_documented(monkeypatch):
    put_in_place(monkeypatch, depths=(1,), widths=(64,))
    network = residual("resnet18", 32, 100)

    @jax.jit
    def made():  # a part of them, because drawing takes long to compile
        params, _ = network.make()
        return (
            params["block1_1"]["conv1"]["kernel"],
            params["outputs"],
            params["block1_1"]["norm1"],
            params["block1_1"]["norm2"],
        )

    kernel, outputs, *norms = made()
    assert float(kernel.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)  # by its outputs
    assert float(kernel.max()) > 3 * kernel.std()  # not cut off
    assert float(outputs["kernel"].std()) == pytest.approx(0.01, rel=0.05) and not outputs["bias"].any()
    assert norms[0]["scale"].all() and not norms[1]["scale"].any() and not norms[1]["bias"].any()  # nothing is added


# Training


@pytest.mark.slow
def test_a_batch_in_parts_updates_the_statistics_part_by_part():
    config = settings(image__size=8, model__channels=(4,), model__dense=(), model__norm="batch", data__batch_size=16,
                      train__accumulate=2)  # fmt: skip
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 0.0)
    before = jax.jit(functools.partial(state.initial, network, tx))()
    images = random_images(16, 8)
    batch = {"image": images, "label": jnp.arange(16, dtype=jnp.int32) % 2}
    step = jax.jit(functools.partial(steps.train_step, network=network, tx=tx, recipe=steps.recipe(config)))
    after, values = step(before, batch)
    x = images.astype(jnp.float32) / 255
    first, second = (convolve(x[i::2], before.params["conv1"]["kernel"]) for i in (0, 1))
    expected = (first.mean((0, 1, 2)) + second.mean((0, 1, 2))) / 2  # a mean of the first updates
    np.testing.assert_allclose(after.stats["norm_conv1"]["mean"], expected, rtol=1e-4, atol=1e-6)
    assert values["loss"] == pytest.approx(np.log(2), abs=0.3)


@pytest.mark.slow
def test_statistics_are_those_of_the_whole_batch_on_any_number_of_devices():
    code = """
import functools, json
import jax, numpy as np
from training_tools import settings, network_of
from cnnjax import models
from cnnjax.models import resnet
from cnnjax import runtime
from cnnjax.training import optimizers, state
from cnnjax.training import steps
models.MODELS["resnet18"] = functools.partial(resnet.ResNet, block=resnet.basic, depths=(1,), widths=(4,))
config = settings(model__name="resnet18", image__size=8, data__batch_size=8)
network = network_of(config, 2)
tx = optimizers.make_optimizer(config.optimizer, lambda step: 1e-3)
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (8, 8, 8, 3), np.uint8), "label": np.arange(8, dtype=np.int32) % 2}
found = []
for devices in (1, 4):
    mesh = runtime.mesh(devices)
    make = functools.partial(state.initial, network, tx)
    begin = jax.jit(make, out_shardings=models.shardings(jax.eval_shape(make), mesh))()
    after, values = steps.compile_steps(network, tx, mesh, config).train(begin, jax.device_put(batch, runtime.batched(mesh)))
    found.append([np.asarray(leaf).tolist() for leaf in jax.tree.leaves((values["loss"], after.stats))])
print(json.dumps(found))
"""
    one, four = on_devices(4, code)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, four)


@pytest.fixture(scope="module")
def small_run(make, tmp_path_factory):
    """Config, directory and summary of a finished run of four epochs."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, **TINY)
        config = make(model__name="resnet18", model__dropout_dense=0.3, train__epochs=4, seed=2, optimizer__learning_rate=0.05,
                      augment__flip_horizontal=True, data__batch_size=16)  # fmt: skip
        workdir = tmp_path_factory.mktemp("resnet") / "run"
        return config, workdir, train(config, workdir)


def weights(workdir, config):
    with checkpoints.Checkpoints(RunDirectory(workdir)) as saved:
        abstract = {"model": network_of(config, 2).abstract(runtime.mesh())}
        return jax.device_get(saved.load(saved.latest(), abstract)["model"])


def test_four_epochs_lower_the_loss_and_evaluation_repeats_its_numbers(small_run, monkeypatch):
    put_in_place(monkeypatch, **TINY)
    config, workdir, summary = small_run
    rows = read_rows(workdir / "history.csv")
    assert float(rows[-1]["loss"]) < 0.95 * float(rows[0]["loss"])
    assert evaluate(workdir, "test")["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)
    assert {row["kind"] for row in json.loads((workdir / "network.json").read_text())} >= {"block", "average"}
    assert any(leaf.any() for leaf in jax.tree.leaves(weights(workdir, config)["stats"]["block1_1"]["norm1"]["mean"]))


@pytest.mark.slow
def test_a_stopped_run_of_a_residual_network_ends_as_the_undisturbed_one(small_run, monkeypatch, tmp_path):
    put_in_place(monkeypatch, **TINY)
    config, workdir, summary = small_run
    log = tmp_path / "run" / "metrics.jsonl"
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop=lambda: log.exists() and len(log.read_text().splitlines()) >= 2)
    again = train(config, tmp_path / "run")
    assert again["test"] == summary["test"]
    pairs = zip(*(jax.tree.leaves(weights(place, config)) for place in (workdir, tmp_path / "run")), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
