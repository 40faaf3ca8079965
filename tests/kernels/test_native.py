"""Networks whose layers the CPU's own kernels take over: the same numbers, the same run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_tools import network_of, on_devices, read_rows, settings, tiny

import cnnjax
from cnnjax import config as config_lib
from cnnjax import inference, models, runtime
from cnnjax.cpus import usable_cpus
from cnnjax.errors import ConfigError, Stopped
from cnnjax.kernels import PLAIN
from cnnjax.kernels import blocks as kernels
from cnnjax.training.losses import cross_entropy_of_labels

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
# Blocks with one and two convolutions, both paddings and strides, a wide dense layer, channels that do not fit.
NETWORKS = {
    "malaria": {"image__size": 32, "model__channels": (16, 16, 16), "model__convs": (1, 2, 2), "model__pool_stride": 1,
                "model__padding": ("valid", "same", "same"), "model__dense": (64, 32)},
    "flowers": {"image__size": 45, "model__channels": (16, 32, 64), "model__dense": (128,)},
    "some": {"image__size": 20, "model__channels": (12, 16, 24), "model__dense": (16,)},
    "norm": {"image__size": 20, "model__channels": (16, 16), "model__norm": "batch", "model__dense": (8,)},
    "resnet18": {"image__size": 20, "model__name": "resnet18"},
}  # fmt: skip


def network(kernels, name, classes=5, **options):
    return network_of(settings(runtime__kernels=kernels, **NETWORKS[name], **options), classes)


def results(network, images, labels):
    """Logits in evaluation, the loss in training, and its gradients, in one program."""
    params, stats = jax.jit(network.make)()

    def loss(params):
        logits = nnx.merge(network.train_def, params, stats)(images, nnx.Rngs(dropout=jax.random.key(1)))
        return cross_entropy_of_labels(logits, labels).mean()

    return jax.jit(lambda p: (nnx.merge(network.eval_def, p, stats)(images), *jax.value_and_grad(loss)(p)))(params)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, name", [
    *(("uint8", name) for name in NETWORKS if name != "resnet18"),
    ("float32", "malaria"),
    *(pytest.param(dtype, "resnet18", marks=pytest.mark.slow) for dtype in ("uint8", "float32")),
])  # fmt: skip
def test_logits_loss_and_all_gradients_are_those_of_xla(name, dtype):
    rng = np.random.default_rng(1)  # with 0 a pool has two values that rounding exchanges, and their gradients
    size = NETWORKS[name]["image__size"]
    images, labels = rng.integers(0, 256, (6, size, size, 3)).astype(dtype), rng.integers(0, 5, 6)
    (our_logits, ours, our_gradients), (logits, xla, gradients) = (
        results(network(kind, name), images, labels) for kind in ("native", "xla")
    )
    np.testing.assert_allclose(our_logits, logits, atol=1e-5)
    assert float(ours) == pytest.approx(float(xla), rel=1e-5)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(our_gradients), jax.tree.leaves(gradients), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=2e-4 * scale + 1e-7, rtol=1e-3, err_msg=str(path))


def both_logits(name, count, **options):
    """Computes with kernels and with XLA, from the same weights."""
    size = NETWORKS[name]["image__size"]
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    ours, xla = (network(kind, name, **options) for kind in ("native", "xla"))
    params, stats = jax.jit(ours.make)()
    return jax.jit(lambda p, s: [nnx.merge(one.eval_def, p, s)(images) for one in (ours, xla)])(params, stats)


@pytest.mark.slow
def test_logits_of_a_residual_network_are_those_of_xla():
    np.testing.assert_allclose(*both_logits("resnet18", 7), atol=1e-5)


def test_whitening_and_bfloat16_go_together_with_them():
    np.testing.assert_allclose(*both_logits("malaria", 8, image__zca=True, train__precision="bfloat16"), atol=0.02)


@pytest.mark.parametrize(
    "options, with_kernels",
    [({"model__name": "resnet18"}, "float32"), ({"model__norm": "batch"}, "float32"), ({}, "bfloat16")],
)
def test_networks_with_normalisation_compute_in_float32(options, with_kernels):
    for kind, expected in {"native": with_kernels, "auto": with_kernels, "xla": "bfloat16"}.items():
        config = settings(train__precision="bfloat16", runtime__kernels=kind, **options)
        assert (
            models.precision(config, runtime.ops(config.runtime, "cpu"))
            == expected
            == str(network_of(config, 3).model.dtype.name)
        )


def test_on_an_accelerator_the_precision_stays_what_was_asked_for():
    config = settings(model__name="resnet18", train__precision="bfloat16")
    assert models.precision(config, runtime.ops(config.runtime, "gpu")) == "bfloat16"


def test_the_kernels_are_in_the_program_of_the_step():
    config = settings(runtime__kernels="native", **NETWORKS["malaria"])
    net = network_of(config, 2)
    compiled = inference.compile_logits(net, runtime.mesh())
    params, stats = jax.eval_shape(net.make)
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8)
    text = compiled.lower({"params": params, "stats": stats}, images).as_text()
    assert "conv_forward" in text and "dense_forward" in text and "stablehlo.convolution" not in text


def losses(workdir):
    return [json.loads(line).get("loss") for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_stopped_run_continues_bit_for_bit_and_another_kind_may_take_over(cell_folder, cache, tmp_path):
    def run(name, kind, stop_at=0):
        workdir = tmp_path / name
        log = workdir / "metrics.jsonl"
        config = tiny(cell_folder, cache, model__channels=(16, 16), runtime__kernels=kind)
        cnnjax.train(config, workdir, stop=lambda: stop_at and log.exists() and len(log.read_text().splitlines()) >= stop_at)
        return workdir

    undisturbed = run("undisturbed", "native")
    for name in ("stopped", "moved"):
        with pytest.raises(Stopped):
            run(name, "native", 10)
    assert losses(run("stopped", "native")) == losses(undisturbed)
    moved = read_rows(run("moved", "xla") / "history.csv")
    assert [float(row["loss"]) for row in moved] == pytest.approx(
        [float(row["loss"]) for row in read_rows(undisturbed / "history.csv")], rel=2e-3
    )


def test_native_where_there_is_none_is_one_line(monkeypatch):
    monkeypatch.setattr("cnnjax.runtime.devices.why_not", lambda: "the kernels are not compiled")
    auto = config_lib.override(config_lib.default(), {"data.path": "unused"})
    assert runtime.ops(auto.runtime, "cpu") == PLAIN
    with pytest.raises(
        ConfigError, match=r"^runtime.kernels=native: the kernels are not compiled; use --config.runtime.kernels=auto$"
    ):
        runtime.ops(config_lib.override(auto, {"runtime.kernels": "native"}).runtime, "cpu")


HELPERS = """
import json, os
from cnnjax import inference, kernels, models, runtime
from training_tools import network_of, settings
import jax, numpy as np

network = network_of(settings(image__size=64, model__channels=(16,)), 5)
params, stats = jax.jit(network.make)()
images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
run = inference.compile_logits(network, runtime.mesh())
names = lambda: len(os.listdir("/proc/self/task"))

def asked():
    before = names()
    found = np.asarray(run({"params": params, "stats": stats}, images))
    return names() - before, found

jax.block_until_ready(jax.jit(lambda x: x @ x)(np.ones((512, 512), np.float32)))  # XLA's threads are there
kernels.limit_threads(1)
compiled, _ = asked()
one, few = asked()
kernels.limit_threads()
more, many = asked()
print(json.dumps([one, more, bool((few == many).all())]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists() or usable_cpus() < 2, reason="counts threads; takes two processors")
def test_a_limit_of_threads_holds_from_then_on():
    one, more, same = on_devices(1, HELPERS)
    assert (one, same) == (0, True) and more >= 1
