"""Convolutions without bias, batch normalisation and the pool of residual networks: what the contract of kernels leaves open."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kernel_rows import whole_numbers
from training_tools import on_devices

from cnnjax.kernels import PLAIN, available, convs, normed, why_not

if not available():
    pytest.skip(why_not(), allow_module_level=True)

ONE = ((1, 1), (1, 1))


def test_an_image_of_one_pixel_is_convolved_too(each_set):
    rng = np.random.default_rng(0)
    x, w, g = whole_numbers(rng, 1, 1, 1, 16), whole_numbers(rng, 3, 3, 16, 16), whole_numbers(rng, 1, 1, 1, 16)
    y, pull = jax.vjp(functools.partial(convs.conv, stride=1, padding=ONE), x, w)
    dx, dw = pull(g)
    np.testing.assert_array_equal(y[0, 0], x[0, 0] @ w[1, 1])
    np.testing.assert_array_equal(dx[0, 0], g[0, 0] @ w[1, 1].T)
    np.testing.assert_array_equal(dw[1, 1], x[0, 0].T @ g[0, 0])
    assert (np.asarray(dw).any((2, 3)).sum()) == 1


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("adds", [False, True])
def test_batch_norm_and_its_gradients_are_those_of_flax(activation, adds):
    rng = np.random.default_rng(0)
    shape = (3, 5, 7, 48)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    arrays = [draw(*shape) * 2 + 1, draw(48), draw(48), *([draw(*shape)] if adds else [])]
    g = draw(*shape)

    def results(norm):
        @jax.jit
        def all_of_them(*arrays):
            y, pull, found = jax.vjp(norm, *arrays, has_aux=True)
            return y, *found, *pull(g)

        return all_of_them(*arrays)

    def ours(*arrays):
        y, *found = normed.batch_norm(*arrays, epsilon=1e-5, activation=activation)
        return y, found

    def flax(x, scale, bias, *more):
        norm = nnx.BatchNorm(x.shape[-1], use_running_average=False, epsilon=1e-5, momentum=0.0, rngs=nnx.Rngs(0))
        norm.scale[...], norm.bias[...] = scale, bias
        y = sum(more, norm(x))
        return {"none": y, "relu": nnx.relu(y), "relu6": nnx.relu6(y)}[activation], [norm.mean[...], norm.var[...]]

    for i, (a, c) in enumerate(zip(results(ours), results(flax), strict=True)):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=2e-5 * np.abs(c).max(), err_msg=f"result {i}")


def test_batch_norm_of_equal_numbers_is_its_bias(each_set):
    x = np.full((4, 4, 16), 3, np.float32)
    y, mean, var = normed.batch_norm(
        x, np.ones(16, np.float32), np.arange(16, dtype=np.float32), epsilon=1e-5, activation="none"
    )
    assert (np.asarray(mean) == 3).all() and (np.asarray(var) == 0).all()
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(16.0), x.shape))


def test_the_pool_keeps_nan_and_infinities(each_set):
    x = np.zeros((1, 8, 8, 16), np.float32)
    x[0, 2, 2], x[0, 6, 6], x[0, 4:, :4] = np.nan, np.inf, -np.inf
    y, pull = jax.vjp(normed.max_pool, x)
    np.testing.assert_array_equal(y, PLAIN.max_pool(jnp.asarray(x), 3, 2, 1))
    assert np.asarray(pull(np.ones_like(y))[0]).sum() == (np.isfinite(y) | np.isinf(y)).sum()


def test_the_gradient_of_images_is_left_out_of_the_program_where_nobody_needs_it():
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 6, 7, 3), (3, 3, 3, 16)))
    text = jax.jit(jax.grad(lambda w: (convs.conv(x, w, stride=2, padding=ONE) ** 2).sum())).lower(w).compile().as_text()
    assert "plain_backward" in text and " convolution(" not in text


def test_memory_that_is_kept_is_bounded():
    code = """
import json, jax, jax.numpy as jnp
from cnnjax.kernels import convs
step = jax.jit(jax.grad(lambda w, x: (convs.conv(x, w, stride=1, padding=((1, 1), (1, 1))) ** 2).sum()))
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
arrays = [(jnp.ones((3, 3, c, c)), jnp.ones((8, s, s, c))) for c, s in ((64, 16), (128, 8), (256, 2), (16, 30))]
for i in range(60):
    if i == 20:
        before = resident()
    for w, x in arrays:
        jax.block_until_ready(step(w, x))
print(json.dumps(resident() - before))
"""
    assert on_devices(1, code) < 8e6
