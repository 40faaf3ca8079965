"""Blocks of a convolution, ReLU and a pool give what JAX gives, on every instruction set: sums, ties, bfloat16, NaN."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from kernel_rows import SETS, instructions, whole_numbers

from cnnjax.kernels import PLAIN
from cnnjax.kernels import blocks as kernels

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)

HIGHEST = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
# Images [n, h, w, ci] and output channels.
SHAPES = (
    ((1, 3, 3, 1), 16),  # without padding one pixel is left
    ((2, 1, 17, 16), 16),  # one row
    ((3, 8, 1, 3), 32),  # one column
    ((70, 5, 6, 3), 16),  # more images than groups of partial sums
    ((1, 40, 181, 16), 32),  # several bands
    ((2, 13, 31, 64), 48),
    ((1, 6, 7, 272), 16),
    ((2, 9, 11, 20), 32),  # gradients of channels that fill no block
    ((2, 12, 10, 32), 64),
    ((2, 9, 35, 3), 32),  # more windows of a pool than one tile has
)
CASES = [
    (x, co, padding, pool_stride)
    for x, co in SHAPES
    for padding in (0, 1)
    for pool_stride in (0, 1, 2)
    if kernels.supports_block(x, (3, 3, x[3], co), padding, pool_stride)
]


def pure_block(x, w, b, *, padding: int, pool_stride: int, scale: float = 1.0):
    """Computes in plain JAX what `conv_block` computes."""
    y = lax.conv_general_dilated(scale * x.astype(jnp.float32), w, (1, 1), [(padding, padding)] * 2, **HIGHEST)
    y = jax.nn.relu(y + b[None, None, None])
    return PLAIN.max_pool(y, 2, pool_stride) if pool_stride else y


def with_gradients(block, x, w, b, g, **options):
    """y, dx, dw, db in one program."""

    def call(x, w, b, g):
        y, pull = jax.vjp(functools.partial(block, **options), x, w, b)
        return y, *pull(g)

    return [np.asarray(array) for array in jax.jit(call)(x, w, b, g)]


def out_shape(x: tuple[int, ...], co: int, padding: int, pool_stride: int) -> tuple[int, ...]:
    w, b = np.zeros((3, 3, x[3], co), np.float32), np.zeros(co, np.float32)
    options = {"padding": padding, "pool_stride": pool_stride}
    return jax.eval_shape(functools.partial(pure_block, **options), np.zeros(x, np.float32), w, b).shape


@functools.cache
def whole_case(x, co, padding, pool_stride):
    """Whole numbers so small that every sum is exact in float32, and ties are frequent; and what comes of them."""
    rng = np.random.default_rng([*x, co])
    arrays = whole_numbers(rng, *x), whole_numbers(rng, 3, 3, x[3], co, most=2), whole_numbers(rng, co)
    arrays += (whole_numbers(rng, *out_shape(x, co, padding, pool_stride)),)
    return arrays, [array.astype(np.float32) for array in float64_block(*arrays, padding, pool_stride)[:4]]


def in_larger_tiles(name: str, case) -> bool:
    """Whether an instruction set may compute tiles of 4x4 outputs, which divide by 24 in each direction."""
    (_, h, w, ci), _, padding, _ = case
    return name in ("avx512", "avx512bf16") and ci % 16 == 0 and min(h, w) + 2 * padding - 2 >= 8


def float64_block(x, w, b, g, padding, pool_stride):
    """y, dx, dw, db and the output before ReLU and pool, all in float64."""
    x, w, b, g = (array.astype(np.float64) for array in (x, w, b, g))
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    z = b + sum(x[:, i : i + rows, j : j + columns] @ w[i, j] for i in range(3) for j in range(3))
    a, da = np.maximum(z, 0), np.zeros_like(z)
    if pool_stride:
        last = [(size - 2) // pool_stride * pool_stride + 1 for size in (rows, columns)]
        places = [(slice(None), slice(i, i + last[0], pool_stride), slice(j, j + last[1], pool_stride))
                  for j in (0, 1) for i in (0, 1)]  # fmt: skip
        four = np.stack([a[place] for place in places])
        y, first = four.max(0), four.argmax(0)
        for k, place in enumerate(places):
            da[place] += g * (first == k)
    else:
        y, da = a, g
    dz = da * (z > 0)
    dw, dx = np.zeros_like(w), np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            window = (slice(None), slice(i, i + rows), slice(j, j + columns))
            dw[i, j] = np.tensordot(x[window], dz, ((0, 1, 2),) * 2)
            dx[window] += dz @ w[i, j].T
    inner = slice(padding, -padding or None)
    return y, dx[:, inner, inner], dw, dz.sum((0, 1, 2)), z


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_what_is_wanted_is_what_jax_gives_at_ties_too(case):
    arrays, wanted = whole_case(*case)
    for a, c in zip(with_gradients(pure_block, *arrays, padding=case[2], pool_stride=case[3]), wanted, strict=True):
        np.testing.assert_array_equal(a, c)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_of_whole_numbers_give_exactly_what_is_wanted(case):
    (x, w, b, g), wanted = whole_case(*case)
    larger = {name: in_larger_tiles(name, case) for name in SETS}
    without = (True, False) if case[0][3] in (3, 20) else (True,)  # whether the gradient of the images is asked for
    variants = [
        variant
        for variant in itertools.product(SETS, (False, True), without)
        if not (larger[variant[0]] and variant[:2] == ("avx512bf16", True))  # rounds what it has transformed
    ]
    times = {name: np.float32(576 if larger[name] else 1) for name in SETS}

    def call(x, w, b, g):
        """All variants in one program, since most of the time goes into compiling."""
        found = []
        for name, bfloat16, input_grad in variants:
            f = times[name]
            with instructions(name):
                block = functools.partial(kernels.conv_block, padding=case[2], pool_stride=case[3], bfloat16=bfloat16,
                                          input_grad=input_grad)  # fmt: skip
                y, pull = jax.vjp(block, x, f * w, f * b)
                found.append((y, *pull(f * g)))
        return found

    for (name, bfloat16, input_grad), found in zip(variants, jax.jit(call)(x, w, b, g), strict=True):
        f = times[name]
        for what, a, c, factor in zip(("y", "dx", "dw", "db"), found, wanted, (f, f * f, f, f), strict=True):
            if input_grad or what != "dx":
                np.testing.assert_array_equal(a, c * factor, err_msg=f"{what}, {name}, bfloat16={bfloat16}")


def decided(z: np.ndarray, pool_stride: int, shape: tuple[int, ...], least: float = 1e-4) -> np.ndarray:
    """1 where ReLU and the maximum depend on more than rounding."""
    if not pool_stride:
        return np.abs(z) > least
    rows, columns = (np.asarray(shape[1:3]) - 1) * pool_stride + 1
    four = [z[:, i : i + rows : pool_stride, j : j + columns : pool_stride] for i in (0, 1) for j in (0, 1)]
    four = np.sort(four, 0)
    return (four[3] - np.maximum(four[2], 0) > least) | (four[3] < -least)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:: 4 if len(SETS) > 1 else 1], ids=str)
def test_blocks_of_random_numbers_are_as_close_to_float64_as_float32_allows(each_set, case):
    shape, co, padding, pool_stride = case
    rng = np.random.default_rng([*shape, co])
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in (shape, (3, 3, shape[3], co), (co,)))
    w *= np.float32((2 / 9 / shape[3]) ** 0.5)
    g = rng.standard_normal(out_shape(*case)).astype(np.float32)
    g *= decided(float64_block(x, w, b, g, padding, pool_stride)[4], pool_stride, g.shape)
    wanted = float64_block(x, w, b, g, padding, pool_stride)[:4]
    options = {"padding": padding, "pool_stride": pool_stride}
    found = with_gradients(kernels.conv_block, x, w, b, g, **options)
    larger = in_larger_tiles(each_set, case)
    most = 1e-5 if larger else 5e-6  # tiles of 4x4 outputs multiply and divide more
    for a, c in zip(found, wanted, strict=True):
        assert np.abs(a - c).max() <= most * np.abs(c).max()
    y = kernels.conv_block(x, w, b, **options, bfloat16=True)
    if each_set == "avx512bf16":
        most = 2.5e-2 if larger else 1e-2
    assert np.abs(y - wanted[0]).max() <= most * wanted[0].max()


@pytest.mark.parametrize("case", [((2, 1, 17, 16), 16, 1, 0), *(((2, 13, 31, 64), 48, 1, s) for s in (0, 1, 2)),
                                  ((2, 9, 11, 20), 32, 0, 2)], ids=str)  # fmt: skip
def test_gradients_with_bfloat16_are_as_close_to_float64_as_rounded_factors_allow(case):
    # With a rounding of 2^-9 in both factors, direct sums are off by 2.5e-3, those of tiles of 2x2 outputs by 4e-3, of 4x4 by 1.3e-2.
    shape, co, padding, pool_stride = case
    rng = np.random.default_rng([*shape, co])
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in (shape, (3, 3, shape[3], co), (co,)))
    w *= np.float32((2 / 9 / shape[3]) ** 0.5)
    g = rng.standard_normal(out_shape(*case)).astype(np.float32)
    times = 3 if in_larger_tiles(kernels.instruction_set(), case) else 1
    g *= decided(float64_block(x, w, b, g, padding, pool_stride)[4], pool_stride, g.shape, 0.05 * times)
    wanted = float64_block(x, w, b, g, padding, pool_stride)[:4]
    found = with_gradients(kernels.conv_block, x, w, b, g, padding=padding, pool_stride=pool_stride, bfloat16=True)
    for a, c in zip(found, wanted, strict=True):
        assert np.sqrt(((a - c) ** 2).mean()) <= times * 6e-3 * np.sqrt((c**2).mean())
        assert np.abs(a - c).max() <= times * 1e-2 * np.abs(c).max()


def test_bytes_are_scaled(each_set):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (3, 20, 21, 3), np.uint8)
    w, b = rng.standard_normal((3, 3, 3, 16)).astype(np.float32), rng.standard_normal(16).astype(np.float32)
    options = {"padding": 1, "pool_stride": 2, "scale": 1 / 255}

    def gradients(block, x, **more):
        return jax.vjp(lambda w, b: block(x, w, b, **options, **more), w, b)

    y, pull = gradients(kernels.conv_block, x)
    from_floats, pull_floats = gradients(kernels.conv_block, x.astype(np.float32))
    wanted, pull_wanted = gradients(pure_block, x)
    g = jnp.asarray(decided(np.asarray(wanted), 0, y.shape), jnp.float32)
    np.testing.assert_array_equal(y, from_floats)
    for a, c in zip(pull(g), pull_floats(g), strict=True):
        np.testing.assert_array_equal(a, c)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    for a, c in zip(pull(g), pull_wanted(g), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-4 * np.abs(c).max())


def test_scale_reaches_the_gradient_of_the_images(each_set):
    case = ((2, 12, 10, 32), 64, 1, 2)
    (x, w, b, g), wanted = whole_case(*case)
    f = np.float32(576 if in_larger_tiles(each_set, case) else 1)
    found = with_gradients(kernels.conv_block, x * 4, f * w, f * b, f * g, padding=1, pool_stride=2, scale=0.25)
    for a, c, factor in zip(found, wanted, (f, f * f * np.float32(0.25), f, f), strict=True):
        np.testing.assert_array_equal(a, c * factor)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pool_stride", [0, 1, 2])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_is_no_finite_number_goes_through_as_in_jax(each_set, value, pool_stride, bfloat16):
    # A kernel of which only the middle is not zero moves nothing about; each place of a window in turn.
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 8, 9, 16)).astype(np.float32)
    for n in range(4):
        x[n, 2 + n % 2, 4 + n // 2, n * 4 : n * 4 + 3] = value
    w, b = np.zeros((3, 3, 16, 16), np.float32), np.zeros(16, np.float32)
    w[1, 1] = np.eye(16)
    options = {"padding": 0, "pool_stride": pool_stride}
    found, wanted = kernels.conv_block(x, w, b, **options, bfloat16=bfloat16), pure_block(x, w, b, **options)
    found, wanted = np.asarray(found), np.asarray(wanted)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    if np.isnan(value):
        assert np.isnan(found).any()
        off = 1e-2 if bfloat16 else 1e-6
        np.testing.assert_allclose(found, wanted, rtol=off, atol=off)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("pool_stride", [0, 1, 2])
def test_what_is_no_finite_number_stays_within_the_tiles_that_see_it(each_set, value, pool_stride):
    x, w, b = np.ones((1, 20, 21, 16), np.float32), np.ones((3, 3, 16, 16), np.float32), np.zeros(16, np.float32)
    x[0, 10, 11, 0] = value  # outputs 9 to 11 and 10 to 12 see it, of tiles 8 to 11 and 8 to 15
    found = np.asarray(kernels.conv_block(x, w, b, padding=1, pool_stride=pool_stride))
    wanted = np.asarray(pure_block(x, w, b, padding=1, pool_stride=pool_stride))
    shape = found.shape[1:3]
    near = np.zeros((20, 21), bool)
    near[8:12, 8:16] = True
    if pool_stride:
        near = np.stack([near[i : i + shape[0] * pool_stride : pool_stride, j : j + shape[1] * pool_stride : pool_stride]
                         [: shape[0], : shape[1]] for i in (0, 1) for j in (0, 1)]).any(0)  # fmt: skip
    assert not np.isfinite(found[~np.isfinite(wanted)]).any()
    np.testing.assert_array_equal(found[:, ~near], wanted[:, ~near])


def test_the_gradient_is_zero_where_the_output_is_nan_and_nan_where_its_own_is(each_set):
    x, w, b = np.ones((1, 6, 6, 16), np.float32), np.ones((3, 3, 16, 16), np.float32), np.zeros(16, np.float32)
    x[0, 0, 0] = np.nan
    g = np.ones((1, 2, 2, 16), np.float32)
    block = functools.partial(kernels.conv_block, padding=0, pool_stride=2)
    _, pull = jax.vjp(block, x, w, b)
    dx, dw, db = pull(g)
    assert np.isfinite(dx).all() and (np.asarray(db) == 3).all()  # one of the four windows has a NaN
    _, pull = jax.vjp(block, np.ones_like(x), w, b)
    dx, dw, db = pull(g * np.nan)
    assert np.isnan(dx).any() and np.isnan(dw).all() and np.isnan(db).all()
