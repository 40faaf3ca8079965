"""ConvNeXt: its table, its parts against their definitions, its first weights, types and devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from training_tools import network_of, on_devices, settings

from cnnjax import inference, models
from cnnjax.errors import DataError
from cnnjax.kernels import PLAIN
from cnnjax.models import convnext

SMALL = {"depths": (1, 2, 1, 1), "widths": (8, 12, 16, 24)}
TINY = {"depths": (1, 1), "widths": (8, 12)}


def small(monkeypatch, size=64, classes=3, shape=SMALL, **overrides):
    """A small network as convnext_tiny."""
    monkeypatch.setitem(models.MODELS, "convnext_tiny", functools.partial(convnext.ConvNeXt, **shape))
    return network_of(settings(model__name="convnext_tiny", image__size=size, **overrides), classes)


def drawn(network):
    """Weights and statistics such that no scale is 0 or 1 and no bias 0."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.normal(1, 0.2, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.1, leaf.shape), jnp.float32)

    return jax.tree.map(draw, network.shapes)


def test_a_block_is_a_row_and_so_is_a_halving_which_leaves_out_pixels_at_the_edge(monkeypatch):
    rows = models.table(small(monkeypatch, 75, 5, model__dropout_dense=0.2).model)
    assert [(row.name, row.shape) for row in rows] == [
        ("conv1", (18, 18, 8)), ("norm1", (18, 18, 8)), ("block1_1", (18, 18, 8)),
        ("halving2", (9, 9, 12)), ("block2_1", (9, 9, 12)), ("block2_2", (9, 9, 12)), ("halving3", (4, 4, 16)),
        ("block3_1", (4, 4, 16)), ("halving4", (2, 2, 24)), ("block4_1", (2, 2, 24)),
        ("average", (24,)), ("norm2", (24,)), ("dropout", (24,)), ("outputs", (5,)),
    ]  # fmt: skip
    work = {row.name: row.mflops * 1e6 for row in rows}
    assert work["conv1"] == 2 * 18 * 18 * 4 * 4 * 3 * 8
    assert work["halving2"] == 2 * 9 * 9 * 2 * 2 * 8 * 12
    assert work["block2_1"] == 2 * 9 * 9 * (7 * 7 * 12 + 2 * 12 * 48)


def test_an_image_below_32_pixels_is_refused_with_the_size_of_a_place():
    with pytest.raises(DataError) as error:
        network_of(settings(model__name="convnext_nano", image__size=31), 2)
    assert str(error.value) == ("images of 31 pixels are too small for this network: a place of its last map is 32 x 32 pixels; "
                                "enlarge --config.image.size")  # fmt: skip


def test_patches_are_a_convolution_with_its_gradients():
    side, sides = 2, (5, 8)
    graphdef, state = nnx.split(convnext.Patches(3, 5, side, jnp.float32, PLAIN, nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *sides, 3)), jnp.float32)

    def ours(x, state):
        return nnx.merge(graphdef, state)(x)

    def convolved(x, state):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, state["kernel"][...], (side, side), "VALID", dimension_numbers=dimensions)
        return y + state["bias"][...].reshape(1, 1, 1, -1)

    def both(f):
        return jax.jit(lambda *a: (f(*a), jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1))(*a)))(x, state)

    found, expected = both(ours), both(convolved)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


def test_features_end_with_the_last_block_and_the_head_gives_the_logits(monkeypatch):
    network = small(monkeypatch, 32, shape=TINY)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    assert network.model.layers[network.model.seen - 1].name == "block2_1"

    @jax.jit
    def halves(params, stats, images):
        model = nnx.merge(network.eval_def, params, stats)
        features = model.features(images)
        return features, model.head(features), model(images)

    features, headed, logits = halves(*drawn(network), images)
    assert features.shape == (2, 4, 4, 12)
    np.testing.assert_allclose(headed, logits, rtol=1e-5, atol=1e-6)


def test_bfloat16_gives_float32_logits_near_those_of_float32(monkeypatch):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    logits = []
    for precision in ("float32", "bfloat16"):
        network = small(monkeypatch, 32, shape=TINY, train__precision=precision, runtime__kernels="xla")
        params, stats = drawn(network)
        logits.append(jax.jit(functools.partial(inference.logits_step, network=network))(
            {"params": params, "stats": stats}, images))  # fmt: skip
    assert logits[1].dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05 * np.abs(logits[0]).max()


@pytest.mark.slow
def test_weights_begin_as_documented(monkeypatch):
    network = small(monkeypatch, shape={"depths": (1, 1), "widths": (16, 32)}, classes=100)
    params, stats = jax.jit(network.make)()
    block = params["block2_1"]
    for kernel in (block["conv"]["kernel"], block["dense1"]["kernel"], params["halving2"]["conv"]["kernel"],
                   params["outputs"]["kernel"]):  # fmt: skip
        assert float(kernel.std()) == pytest.approx(0.02, rel=0.1)
    assert float(block["dense1"]["kernel"].max()) > 0.05  # not cut off at two deviations
    assert not block["conv"]["bias"].any() and (block["gamma"] == np.float32(1e-6)).all() and not stats


@pytest.mark.parametrize(("path", "shape", "wanted", "found"), [
    (("hidden", "kernel"), (32, 8, 1, 1), (8, 32), (8, 32)), (("block1_1", "gamma"), (8, 1, 1), (8,), (8,)),
    (("hidden", "kernel"), (8, 32, 1, 1), (8, 32), (1, 1, 32, 8)), (("block1_1", "gamma"), (8, 1, 1), (9,), (8, 1, 1)),
])  # fmt: skip
def test_only_axes_of_length_1_are_taken_from_published_arrays(path, shape, wanted, found):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    got = models.from_reference(path, array, wanted)
    assert got.shape == found
    np.testing.assert_array_equal(got.squeeze(), array.squeeze().T if path[-1] == "kernel" else array.squeeze())


DIVIDED = """
import functools, json
import jax, numpy as np
from training_tools import settings, network_of
from cnnjax import models, runtime
from cnnjax.models import convnext, densenet
from cnnjax.training import optimizers, state, steps
small = {"convnext_tiny": functools.partial(convnext.ConvNeXt, depths=(1,), widths=(64,)),
         "densenet121": functools.partial(densenet.DenseNet, depths=(1,), growth=32)}
models.MODELS.update(small)
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (8, 16, 16, 3), np.uint8), "label": np.arange(8, dtype=np.int32) % 2}
batch["image"][::2] //= 2
found = {}
for name in small:
    config = settings(model__name=name, image__size=16, data__batch_size=8, optimizer__name="adam")
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 3e-3)
    first = jax.device_get(jax.jit(functools.partial(state.initial, network, tx))())
    for fsdp in (1, 2):
        mesh = runtime.mesh(2, fsdp=fsdp)
        at = jax.device_put(first, models.shardings(first, mesh))
        shards = {leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in jax.tree.leaves(at.params)}
        train, losses = steps.compile_steps(network, tx, mesh, config).train, []
        for _ in range(6):
            at, values = train(at, jax.device_put(batch, runtime.batched(mesh)))
            losses.append(float(values["loss"]))
        found[f"{name} {fsdp}"] = [losses, True in shards]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_convnext_and_densenet_learn_and_parameters_may_be_divided_among_devices():
    found = on_devices(2, DIVIDED)
    for name in ("convnext_tiny", "densenet121"):
        (whole, was_divided), (divided, is_divided) = found[f"{name} 1"], found[f"{name} 2"]
        assert is_divided and not was_divided
        np.testing.assert_allclose(divided, whole, rtol=2e-3)
        assert whole[-1] < 0.9 * whole[0]
