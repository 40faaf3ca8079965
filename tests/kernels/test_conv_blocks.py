"""Blocks in sequence, what their gradients leave out, bfloat16 between them and the dense layer, and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_rows import whole_numbers
from training_tools import on_devices

from cnnjax.kernels import blocks as kernels

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)


def test_the_gradient_of_the_images_is_left_out_where_nobody_needs_it():
    rng = np.random.default_rng(3)
    x, w, b = whole_numbers(rng, 3, 6, 7, 16), whole_numbers(rng, 3, 3, 16, 16), whole_numbers(rng, 16)
    block = functools.partial(kernels.conv_block, padding=1, pool_stride=1)
    y, pull = jax.vjp(functools.partial(block, input_grad=False), x, w, b)
    dx, *rest = pull(y)
    assert not np.asarray(dx).any()
    for a, c in zip(rest, jax.vjp(block, x, w, b)[1](y)[1:], strict=True):
        np.testing.assert_array_equal(a, c)


SEQUENCE = ((1, 0, 16), (0, 1, 32), (1, 2, 16), (0, 0, 48))  # padding, pool_stride, output channels


@pytest.mark.parametrize("images", [3, 40])  # layer by layer, and image by image on several threads
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
def test_blocks_in_sequence_give_bit_by_bit_what_each_gives_by_itself(images, bfloat16, channels):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((images, 22, 17, channels)).astype(np.float32)
    blocks, ci = [], channels
    for padding, pool_stride, co in SEQUENCE:
        w, b = rng.standard_normal((3, 3, ci, co)) / 12, rng.standard_normal(co)
        blocks.append(kernels.Block(np.float32(w), np.float32(b), padding, pool_stride))
        ci = co

    def together(x, blocks):
        return kernels.conv_blocks(x, blocks, bfloat16=bfloat16, scale=0.5)

    def apart(x, blocks):
        for i, (w, b, padding, pool_stride) in enumerate(blocks):
            x = kernels.conv_block(
                x, w, b, padding=padding, pool_stride=pool_stride, bfloat16=bfloat16, scale=1 if i else 0.5
            )
        return x

    def all_of_it(function, x, arrays):
        def call(x, arrays):
            return function(x, [kernels.Block(w, b, *block[2:]) for (w, b), block in zip(arrays, blocks, strict=True)])

        y, pull = jax.vjp(call, x, arrays)
        return call(x, arrays), y, pull(y)

    arrays = [(w, b) for w, b, *_ in blocks]
    found, wanted = (jax.jit(functools.partial(all_of_it, function))(x, arrays) for function in (together, apart))
    for a, c in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("images", [3, 40])
@pytest.mark.parametrize("pool_stride", [0, 1])
def test_blocks_return_bfloat16_on_demand(each_set, images, pool_stride):
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((images, 14, 13, 16)), jnp.float32)
    shape = (3, 3, 16, 16)
    blocks = [
        kernels.Block(jnp.asarray(rng.standard_normal(shape) / 12, jnp.float32), jnp.zeros(16), 1, s)
        for s in (1, pool_stride)
    ]

    def call(rounded):
        y, pull = jax.vjp(lambda x: kernels.conv_blocks(x, blocks, bfloat16=True, rounded=rounded), x)
        g = jnp.asarray(np.random.default_rng(7).standard_normal(y.shape), jnp.bfloat16).astype(y.dtype)
        return y, *pull(g)

    (y, dx), (wanted, wanted_dx) = call(True), call(False)
    rounds = kernels.instruction_set() == "avx512bf16"
    assert y.dtype == (jnp.bfloat16 if rounds else jnp.float32) and wanted.dtype == dx.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(wanted.astype(y.dtype), np.float32))
    np.testing.assert_array_equal(dx, wanted_dx)


def dense_with_gradients(x, w, g):
    """y, dx, dw in one program."""

    def call(x, w, g):
        y, pull = jax.vjp(functools.partial(kernels.dense, bfloat16=True), x, w)
        return y, *pull(g)

    return jax.jit(call)(x, w, g)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 16, 80), (7, 48, 16), (13, 1040, 96), (64, 2064, 64), (33, 512, 128)])
def test_wide_dense_layers_of_bfloat16_are_exact_for_whole_numbers(each_set, m, k, n):
    rng = np.random.default_rng(k)
    x, w, g = (whole_numbers(rng, *shape) for shape in ((m, k), (k, n), (m, n)))
    y, dx, dw = dense_with_gradients(x, w, g)
    for found, wanted in ((y, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        np.testing.assert_array_equal(found, wanted)


def test_wide_dense_layers_of_bfloat16_round_factors_alone(each_set):
    rng = np.random.default_rng(1)
    x, w, g = (rng.normal(size=shape).astype(np.float32) for shape in ((13, 1040), (1040, 48), (13, 48)))
    y, dx, dw = dense_with_gradients(x, w, g)
    rounds = each_set == "avx512bf16"
    x, w, g = (np.asarray(jnp.asarray(a, jnp.bfloat16) if rounds else a, np.float64) for a in (x, w, g))
    for found, wanted in ((y, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


def test_a_wide_dense_layer_takes_what_is_rounded_already(each_set):
    rng = np.random.default_rng(2)
    x, w, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((13, 1040), (1040, 48), (13, 48)))
    half = x.astype(jnp.bfloat16)
    dense = functools.partial(kernels.dense, bfloat16=True)
    if kernels.instruction_set() != "avx512bf16":
        with pytest.raises(ValueError, match="x is bfloat16; give float32"):
            dense(half, w)
        return
    (y, pull), (wanted, wanted_pull) = jax.vjp(dense, half, w), jax.vjp(dense, half.astype(jnp.float32), w)
    (dx, dw), (wanted_dx, wanted_dw) = pull(g), wanted_pull(g)
    assert dx.dtype == jnp.bfloat16
    for a, b in ((y, wanted), (dx, wanted_dx.astype(jnp.bfloat16)), (dw, wanted_dw)):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
    with pytest.raises(ValueError, match="x is bfloat16; give float32"):
        kernels.dense(half, w)


@pytest.mark.slow
def test_memory_does_not_grow_in_20_000_calls():
    code = """
import json, sys
import jax
sys.path.insert(0, "tests/kernels")
from kernel_table import COMPOSITIONS
from cnnjax.kernels import CpuOps
from cnnjax.kernels import blocks as kernels
network = COMPOSITIONS["blocks and dense"]
drawn = network.drawn(network.many)
images, w, b = drawn[:3]
step = jax.jit(lambda *drawn: network.results(CpuOps(), network.many, *drawn))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def loss(w, x):
    return kernels.conv_block(x, w, b, padding=1, pool_stride=1).sum()
many = jax.jit(lambda w, x: jax.lax.fori_loop(0, 100, lambda i, w: w - 1e-3 * jax.grad(loss)(w, x), w))
for i in range(200):
    if i == 40:
        before = resident()
    jax.block_until_ready(many(w, images[:2, :8, :8]))
    if i % 10 == 0:
        jax.block_until_ready(step(*drawn))
print(json.dumps(resident() - before))
"""
    assert on_devices(1, code) < 20e6
