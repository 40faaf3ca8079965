"""A network as structure and state: parameters by seed, types whatever the precision, the number of logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_tools import network_of, settings

from cnnjax import inference, models


def test_parameters_are_float32_plain_dicts_whatever_the_precision():
    config = settings(
        image__size=16, model__channels=(4, 8), model__dense=(8,), model__norm="batch", train__precision="bfloat16"
    )
    params, stats = jax.eval_shape(network_of(config, 3).make)
    leaves = jax.tree.leaves((params, stats))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")} and type(params["conv1"]) is dict
    assert set(stats["norm_conv1"]) == {"mean", "var"} and "bias" not in params["conv1"]


def test_same_seed_same_weights_and_other_seed_other_weights():
    def weights(seed):
        return jax.tree.leaves(
            jax.jit(network_of(settings(seed=seed, image__size=8, model__channels=(2,), model__dense=()), 2).make)()[0]
        )

    assert all(np.array_equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_float32(precision):
    network = network_of(settings(image__size=8, model__channels=(4,), train__precision=precision), 2)
    params, stats = jax.eval_shape(network.make)
    images = jax.ShapeDtypeStruct((3, 8, 8, 3), jnp.uint8)
    step = functools.partial(inference.logits_step, network=network)
    out = jax.eval_shape(step, {"params": params, "stats": stats}, images)
    assert out.shape == (3, 1) and out.dtype == jnp.float32


def test_two_classes_have_one_logit():
    assert [models.outputs_for(n) for n in (2, 3, 10)] == [1, 3, 10]
