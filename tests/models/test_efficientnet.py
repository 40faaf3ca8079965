"""EfficientNet and MobileNetV3: their tables, names, padding and first weights, and how they train. Logits are in test_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from jax import lax
from precision_tools import in_both_precisions
from training_tools import network_of, on_devices, one_line, settings

from cnnjax import models
from cnnjax.errors import DataError
from cnnjax.models import inverted

FIRST = [("conv1", (112, 112, 32), 864), ("norm1", (112, 112, 32), 64), ("block1_1", (112, 112, 16), 1448),
         ("block2_1", (56, 56, 24), 6004), ("block2_2", (56, 56, 24), 10_710)]  # fmt: skip
LAST = [("block7_1", (7, 7, 320), 717_232), ("conv2", (7, 7, 1280), 409_600), ("norm2", (7, 7, 1280), 2560),
        ("average", (1280,), 0), ("outputs", (1000,), 1_281_000)]  # fmt: skip


def made(name, size, classes=3, depths=(), **options):
    """A network with the first blocks of each stage, as many as `depths` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, functools.partial(models.MODELS[name], depths=depths))
        return network_of(settings(model__name=name, image__size=size, **options), classes)


# The tables


@pytest.mark.parametrize(
    ("name", "parameters", "gigaflops"),
    [("efficientnet_b0", 5_288_548, 0.77),
     pytest.param("efficientnet_lite0", 4_652_008, 0.77, marks=pytest.mark.slow),
     pytest.param("efficientnetv2_s", 21_458_488, 5.70, marks=pytest.mark.slow),
     pytest.param("mobilenetv3_large", 5_483_032, 0.433, marks=pytest.mark.slow)],
)  # fmt: skip
def test_parameters_and_work_are_those_of_timm(name, parameters, gigaflops):
    network = made(name, 224, 1000)
    rows = models.table(network.model)
    assert sum(row.parameters for row in rows) == parameters == sum(p.size for p in jax.tree.leaves(network.shapes[0]))
    assert sum(row.mflops for row in rows) / 1000 == pytest.approx(gigaflops, abs=0.005)
    if name == "efficientnet_b0":
        found = [(row.name, row.shape, row.parameters) for row in rows]
        assert (found[:5], found[-5:]) == (FIRST, LAST)


def test_an_image_of_32_pixels_is_halved_to_one_and_a_smaller_one_refused():
    rows = models.table(made("efficientnet_b0", 32, depths=(1, 1, 1, 1, 0, 1, 0), model__dropout_dense=0.2).model)
    assert [row.shape[0] for row in rows if row.kind == "block"] == [16, 8, 4, 2, 1]
    assert [row.name for row in rows[-4:]] == ["norm2", "average", "dropout", "outputs"]
    with pytest.raises(DataError) as error:
        made("mobilenetv3_large", 31)
    assert one_line(error) == ("images of 31 pixels are too small for this network: it halves them five times and takes 32 or "
                               "more; enlarge --config.image.size")  # fmt: skip


# Weights of others


def test_names_of_the_package_of_lite0_number_blocks_through_all_stages():
    network = made("efficientnet_lite0", 32)
    paths = [path for tree in network.shapes for path in traverse_util.flatten_dict(tree)]
    names = models.reference_names(paths, network.model.references["efficientnet_lite_pytorch"])
    assert len(set(names.values())) == len(paths) == 247
    assert names["block1_1", "conv1", "kernel"] == "_blocks.0._depthwise_conv.weight"
    assert names["block1_1", "norm2", "mean"] == "_blocks.0._bn2.running_mean"
    assert names["block7_1", "conv1", "kernel"] == "_blocks.15._expand_conv.weight"
    assert names["block7_1", "norm1", "scale"] == "_blocks.15._bn0.weight"
    assert (names["norm1", "var"], names["outputs", "bias"]) == ("_bn0.running_var", "_fc.bias")


# What they compute


def test_padding_is_that_of_tensorflow():
    cases = [(size, kernel, stride, groups) for size, kernel, stride in (((8, 8), 3, 2), ((7, 10), 5, 2), ((2, 5), 3, 1), ((6, 1), 3, 2))
             for groups in (1, 4)]  # fmt: skip
    rng = np.random.default_rng(0)
    images = [jnp.asarray(rng.standard_normal((2, *size, 4)), jnp.float32) for size, *_ in cases]
    kernels = [jnp.asarray(rng.standard_normal((k, k, 4 // groups, 4)), jnp.float32) for _, k, _, groups in cases]

    @jax.jit
    def both(images, kernels):
        found = []
        for (_, kernel, stride, groups), x, w in zip(cases, images, kernels, strict=True):
            conv = inverted.Conv(4, 4, kernel, stride, inverted.Style(same=True), nnx.Rngs(0), groups=groups)
            conv.kernel[...] = w
            found.append((conv(x), lax.conv_general_dilated(x, w, (stride, stride), "SAME", feature_group_count=groups,
                                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))))  # fmt: skip
        return found

    for ours, expected in both(images, kernels):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_weights_begin_as_documented():
    @jax.jit
    def deviations(key):
        rngs, style = nnx.Rngs(key), inverted.Style()
        layers = (inverted.Conv(8, 64, 3, 1, style, rngs), inverted.Conv(500, 500, 3, 1, style, rngs, groups=500),
                  inverted.dense(64, 100, jnp.float32, rngs))  # fmt: skip
        return [layer.kernel[...].std() for layer in layers]

    assert deviations(jax.random.key(0)) == pytest.approx([(2 / (9 * 64)) ** 0.5, (2 / 9) ** 0.5, 0.01], rel=0.05)


def drawn(network):
    """Weights and statistics such that no scale is 1, no bias 0 and no statistic as at first."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 1:
            return jnp.asarray(rng.uniform(0.2, 1.2, leaf.shape), jnp.float32)
        return jnp.asarray(rng.standard_normal(leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5, jnp.float32)

    return jax.tree.map(draw, network.shapes)


def test_bfloat16_gives_float32_logits_near_those_of_float32_and_keeps_statistics_exact():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    options = {"depths": (1, 0, 0, 1, 0, 0), "runtime__kernels": "xla"}
    kept = in_both_precisions(
        lambda precision: made("efficientnetv2_s", 32, train__precision=precision, **options), drawn, images, 0.1
    )
    assert kept["block4_1"]["norm3"]["mean"].any()


@pytest.mark.slow
def test_an_update_is_the_same_on_any_number_of_devices():
    code = """
import dataclasses, functools, json
import jax, numpy as np
from training_tools import settings, network_of
from cnnjax import models, runtime
from cnnjax.training import optimizers, state, steps
models.MODELS["efficientnet_b0"] = functools.partial(models.MODELS["efficientnet_b0"], depths=(0, 1, 0, 0, 0, 0, 0))
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "label": np.arange(8, dtype=np.int32) % 2}
found = []
for devices, fsdp in ((1, 1), (4, 2)):
    config = settings(model__name="efficientnet_b0", image__size=32, data__batch_size=8, mesh__fsdp=fsdp)
    network = network_of(config, 2)
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 1, np.float32) if leaf.ndim == 1 else
                           np.random.default_rng(leaf.size).normal(0, leaf.shape[-2] ** -0.5, leaf.shape).astype(np.float32), network.shapes)
    network = dataclasses.replace(network, make=lambda weights=weights: weights)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 1e-3)
    mesh = runtime.mesh(devices, fsdp=fsdp)
    make = functools.partial(state.initial, network, tx)
    begin = jax.jit(make, out_shardings=models.shardings(jax.eval_shape(make), mesh))()
    after, values = steps.compile_steps(network, tx, mesh, config).train(begin, jax.device_put(batch, runtime.batched(mesh)))
    sharded = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(after.params))
    found.append([[np.asarray(leaf).tolist() for leaf in jax.tree.leaves((values["loss"], after.stats))], sharded])
print(json.dumps(found))
"""
    (one, none), (four, sharded) = on_devices(4, code)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, four)
    assert none == 0 < sharded
