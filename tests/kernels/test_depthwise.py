"""Convolutions with a kernel for each channel, and those that a norm follows in one pass: beside the contract of kernels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnnjax.kernels import PLAIN, CpuOps, Link, available, same_padding, why_not

if not available():
    pytest.skip(why_not(), allow_module_level=True)

CONVS = {  # images, weights, stride
    "depthwise": ((2, 6, 5, 24), (3, 3, 1, 24), 1),
    "stride": ((2, 6, 5, 24), (5, 5, 1, 24), 2),
    "product": ((2, 3, 5, 24), (1, 1, 24, 40), 1),
    "stem": ((2, 8, 6, 3), (3, 3, 3, 16), 2),
    "tiles": ((2, 6, 5, 16), (3, 3, 16, 16), 1),  # which nothing follows in the same pass
}


def arrays(x, w, y=None):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    mean, scale, bias = (draw(w[3]) for _ in range(3))
    return [draw(*x), draw(*w), mean, draw(w[3]) ** 2, scale, bias, *([draw(*y)] if y else [])]


PAIRS = [("depthwise", "hard_swish"), ("stride", "relu6"), ("product", "relu6"), ("product", "gelu"), ("product", "sigmoid"), ("depthwise", "silu"), ("stem", "relu"), ("tiles", "relu6")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "activation"), PAIRS)
def test_a_convolution_and_its_norm_are_those_of_plain_jax_with_gradients_too(name, activation):
    x, w, stride = CONVS[name]
    padding = same_padding(x[1:3], w[0], stride)
    options = {"stride": stride, "padding": padding, "epsilon": 1e-3, "activation": activation, "dtype": jnp.float32,
               "out_dtype": jnp.float32, "conv_dtype": jnp.float32}  # fmt: skip
    y = (x[0], *(-(-size // stride) for size in x[1:3]), w[3]) if stride == 1 else None
    drawn = arrays(x, w, y)

    @jax.jit
    def results(*drawn):
        found = {}
        for ops in (CpuOps(), PLAIN):
            call = functools.partial(ops.conv_normalize, **options)
            places = tuple(range(1, len(drawn))) if name == "stem" else tuple(range(len(drawn)))
            found[ops.name] = call(*drawn), jax.grad(lambda *a, call=call: (call(*a) ** 2).sum(), places)(*drawn)
        return list(found.values())

    ours, plain = results(*drawn)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("name", CONVS)
def test_what_follows_a_convolution_is_in_its_kernel_but_for_tiles(name):
    x, w, stride = CONVS[name]
    options = {"stride": stride, "padding": w[0] // 2, "epsilon": 1e-3, "activation": "relu6", "dtype": jnp.float32,
               "out_dtype": jnp.float32, "conv_dtype": jnp.float32}  # fmt: skip
    text = jax.jit(functools.partial(CpuOps().conv_normalize, **options)).lower(*arrays(x, w)).as_text()
    assert "cnnjax_" in text and ("stablehlo.clamp" in text) == (name == "tiles")


def test_images_that_no_cache_holds_are_chained_as_by_plain_jax():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    none, one = ((0, 0), (0, 0)), ((1, 1), (1, 1))
    x, g = draw(9, 110, 108, 16), draw(9, 110, 108, 16)  # of 64 channels 27 MB
    weights = draw(1, 1, 16, 64) / 4, draw(3, 3, 1, 64) / 3, draw(1, 1, 64, 16) / 8

    def results(ops, x, *weights):
        def chain(x, *weights):
            links = [Link(w, jnp.ones(w.shape[3]), jnp.ones(w.shape[3]), 1, padding, 1e-3, "silu")
                     for w, padding in zip(weights, (none, one, none), strict=True)]  # fmt: skip
            return ops.chain(x, links, dtype=jnp.float32, out_dtype=jnp.float32, conv_dtype=jnp.float32)[0]

        y, pull = jax.vjp(chain, x, *weights)
        return y, *pull(g)

    ours, plain = (jax.jit(functools.partial(results, ops))(x, *weights) for ops in (CpuOps(), PLAIN))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * float(jnp.abs(b).max()))


def test_other_types_take_the_plain_path():
    x, w, stride = CONVS["depthwise"]
    x, w, *_ = arrays(x, w)
    x = x.astype(jnp.bfloat16)
    found, wanted = (
        ops.depthwise(x, w, stride=stride, padding=1, dtype=jnp.bfloat16).astype(jnp.float32) for ops in (CpuOps(), PLAIN)
    )
    np.testing.assert_array_equal(found, wanted)


def test_a_norm_of_another_activation_is_followed_by_it():
    rng = np.random.default_rng(0)
    x, scale, bias = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((4, 5, 24), 24, 24))
    options = {"epsilon": 1e-3, "activation": "silu", "dtype": jnp.float32, "out_dtype": jnp.float32}
    found, wanted = (jax.jit(functools.partial(ops.batch_norm, **options))(x, scale, bias) for ops in (CpuOps(), PLAIN))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "gelu", "sigmoid"])
@pytest.mark.parametrize("shape", [(2, 5, 24), (3, 4, 7, 16)])
def test_a_dense_layer_at_each_place_is_that_of_plain_jax_with_gradients_too(shape, activation):
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.standard_normal(sides), jnp.float32) for sides in (shape, (shape[-1], 32), (32,))]

    def results(ops, *drawn):
        call = functools.partial(ops.dense, dtype=jnp.float32, activation=activation)
        return call(*drawn), jax.grad(lambda *a: (call(*a) ** 2).sum(), (0, 1, 2))(*drawn)

    ours, plain = (jax.jit(functools.partial(results, ops))(*drawn) for ops in (CpuOps(), PLAIN))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
    text = jax.jit(functools.partial(CpuOps().dense, dtype=jnp.float32, activation=activation)).lower(*drawn).as_text()
    curve = any(name in text for name in ("chlo.erf", "logistic", "exponential"))
    assert "cnnjax_" in text and curve == (activation == "sigmoid")


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_curves_are_right_everywhere_and_at_their_ends(activation):
    x = np.concatenate([np.linspace(-120, 120, 100_000), [-3e38, -1e30, -1e-30, 0, 1e-30, 3e38]]).astype(np.float32)
    values = np.zeros((-(-len(x) // 16) + 1, 16), np.float32)
    values.reshape(-1)[: len(x)] = x
    values[-1] = math.nan
    dense = functools.partial(CpuOps().dense, dtype=jnp.float32, activation=activation)
    found = np.asarray(dense(jnp.asarray(values[None]), jnp.eye(16), jnp.zeros(16))).reshape(-1).astype(np.float64)
    exact = x.astype(np.float64)
    factor = 1 / (1 + np.exp(-np.clip(exact, -700, 700))) if activation == "silu" else scipy.special.ndtr(exact)
    assert np.isnan(found[-16:]).all()
    np.testing.assert_allclose(found[: len(x)], exact * factor, rtol=1e-6, atol=2e-6)
