"""Operations in plain JAX are those of XLA; a max-pool has one place for the gradient at a tie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.kernels import PLAIN, same_padding


def reduce_window(x, window: int, stride: int, padding: int = 0):
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), edges)


def with_gradient(pool, x, *options):
    """Values, and the gradient of their sum with weights of their own, in one program."""
    shape = jax.eval_shape(lambda x: pool(x, *options), x).shape
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return jax.jit(lambda x: (pool(x, *options), jax.grad(lambda x: (pool(x, *options) * weight).sum())(x)))(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "options"),
    [(size, (2, stride)) for size in ((4, 4), (5, 7), (6, 3), (2, 2), (9, 10)) for stride in (1, 2)]
    + [(size, (3, 2, 1)) for size in ((4, 4), (5, 7), (6, 3), (2, 1))],
)
def test_max_pool_is_reduce_window(size, options):
    # Below zero, where padding with zeros would be seen; each value once, so that no window has a tie.
    numbers = np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3) - 400
    x = jnp.asarray(numbers.reshape(2, *size, 3), jnp.float32)
    (y, dx), (wanted, wanted_dx) = (with_gradient(pool, x, *options) for pool in (PLAIN.max_pool, reduce_window))
    assert np.array_equal(y, wanted) and np.allclose(dx, wanted_dx, atol=1e-6)


def test_max_pool_of_bfloat16_stays_bfloat16():
    x = jnp.asarray(np.random.default_rng(0).permutation(144).reshape(2, 6, 6, 2) - 200, jnp.bfloat16)
    y = jax.jit(PLAIN.max_pool, static_argnums=(1, 2, 3))(x, 3, 2, 1)
    assert y.dtype == x.dtype and np.array_equal(y, reduce_window(x.astype(jnp.float32), 3, 2, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_at_ties_chooses_the_first_as_reduce_window_does(stride):
    x = jnp.zeros((1, 7, 6, 2))
    found, wanted = (with_gradient(pool, x, 2, stride)[1] for pool in (PLAIN.max_pool, reduce_window))
    np.testing.assert_array_equal(found, wanted)


def test_a_tie_sends_the_gradient_to_one_place():
    assert jax.jit(jax.grad(lambda x: PLAIN.max_pool(x, 2, 2).sum()))(jnp.ones((1, 4, 4, 1))).sum() == 4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(3, 5), (5, 3), (1, 9), (3, 3), (9, 4)])
def test_convolution_of_images_of_any_shape_is_that_of_xla(size, stride):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.integers(-3, 4, shape), jnp.float32) for shape in ((2, *size, 4), (3, 3, 4, 5)))
    expected = lax.conv_general_dilated(x, w, (stride,) * 2, ((1, 1),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert np.array_equal(PLAIN.conv(x, w, stride=stride, dtype=jnp.float32), expected)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "kernel"), [((6, 9), 3), ((8, 7), 5), ((3, 4), 7)])
def test_padding_of_tensorflow_is_the_same_of_xla(size, kernel, stride):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.integers(-3, 4, shape), jnp.float32) for shape in ((2, *size, 3), (kernel, kernel, 1, 3)))
    found = PLAIN.depthwise(x, w, stride=stride, padding=same_padding(size, kernel, stride), dtype=jnp.float32)
    expected = lax.conv_general_dilated(
        x, w, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    assert np.array_equal(found, expected)
