"""DenseNet: its table, its first weights, types and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_tools import network_of, settings

from cnnjax import models
from cnnjax.errors import DataError
from cnnjax.kernels import PLAIN
from cnnjax.models import densenet

SMALL = {"depths": (2, 1), "growth": 8}


def small(monkeypatch, size=32, classes=3, shape=SMALL, **overrides):
    """A small network as densenet121."""
    monkeypatch.setitem(models.MODELS, "densenet121", functools.partial(densenet.DenseNet, **shape))
    return network_of(settings(model__name="densenet121", image__size=size, **overrides), classes)


def test_blocks_and_transitions_are_rows_of_the_table(monkeypatch):
    rows = models.table(small(monkeypatch, 75, 5, model__dropout_dense=0.2).model)
    assert [(row.name, row.shape) for row in rows] == [
        ("conv1", (38, 38, 16)), ("norm1", (38, 38, 16)), ("pool1", (19, 19, 16)), ("block1_1", (19, 19, 24)),
        ("block1_2", (19, 19, 32)), ("transition1", (9, 9, 16)), ("block2_1", (9, 9, 24)), ("norm2", (9, 9, 24)),
        ("average", (24,)), ("dropout", (24,)), ("outputs", (5,)),
    ]  # fmt: skip
    work = {row.name: row.mflops * 1e6 for row in rows}
    assert work["block1_2"] == 2 * 19 * 19 * (24 * 32 + 9 * 32 * 8)
    assert work["transition1"] == 2 * 19 * 19 * 32 * 16


def test_an_image_of_28_pixels_is_refused_and_one_of_29_is_not():
    made = functools.partial(densenet.DenseNet, depths=(1, 1, 1, 1), growth=2)
    config = settings(model__name="densenet121", image__size=28)
    with pytest.raises(DataError, match=r"nothing is left of them after 3 transitions; enlarge --config.image.size$"):
        network_of(config, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "densenet121", made)
        rows = models.table(network_of(settings(model__name="densenet121", image__size=29), 2).model)
    assert [row.shape for row in rows if row.name == "block4_1"] == [(1, 1, 4)]


def test_a_transition_takes_the_mean_of_four_pixels_and_leaves_out_the_last_row_and_column():
    transition = densenet.Transition(4, 4, jnp.float32, PLAIN, nnx.Rngs(0))
    transition.conv.kernel[...] = jnp.eye(4).reshape(1, 1, 4, 4)
    transition.norm.use_running_average = True
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 5, 3, 4)), jnp.float32)
    expected = x[:, :4, :2].reshape(2, 2, 2, 1, 2, 4).mean((2, 4)) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(transition(x), expected, rtol=1e-5)


def test_bfloat16_gives_float32_logits_near_those_of_float32(monkeypatch):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8))
    logits = []
    for precision in ("float32", "bfloat16"):
        network = small(
            monkeypatch, 16, shape={"depths": (1,), "growth": 8}, train__precision=precision, runtime__kernels="xla"
        )
        params, stats = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), network.shapes)
        logits.append(jax.jit(lambda *a, network=network: nnx.merge(network.eval_def, *a)(images))(params, stats))
    assert logits[1].dtype == jnp.float32
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05 * np.abs(logits[0]).max()


def test_weights_begin_as_documented(monkeypatch):
    params, _ = jax.jit(small(monkeypatch, shape={"depths": (1, 1), "growth": 32}, classes=100).make)()
    block, outputs = params["block1_1"], params["outputs"]["kernel"]
    assert float(block["conv1"]["kernel"].std()) == pytest.approx((2 / 64) ** 0.5, rel=0.03)  # by its inputs
    assert float(block["conv2"]["kernel"].std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert block["norm1"]["scale"].all() and not block["norm2"]["bias"].any() and not params["outputs"]["bias"].any()
    limit = outputs.shape[0] ** -0.5
    assert 0.95 * limit < float(outputs.max()) <= limit and -limit <= float(outputs.min()) < -0.95 * limit
