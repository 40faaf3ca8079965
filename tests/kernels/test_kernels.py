"""The kernels for the CPU give what JAX gives: numbers, gradients, NaN; on threads, on devices, within transformations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from training_tools import on_devices, results_on_threads

from cnnjax.kernels import PLAIN, library
from cnnjax.kernels import blocks as kernels

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)

SETS = library.instruction_sets()
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


@pytest.fixture(params=SETS)
def each_set(request, monkeypatch) -> str:
    """The test runs once on every instruction set of this CPU."""
    library.register(request.param)
    monkeypatch.setattr(kernels, "instruction_set", lambda: request.param)
    return request.param


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


def whole_numbers(rng: np.random.Generator, *shape: int, most: int = 3) -> np.ndarray:
    return rng.integers(-most, most + 1, shape).astype(np.float32)


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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_give_exactly_what_is_wanted(case):
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
            library.register(name)
            f = times[name]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, "instruction_set", lambda name=name: name)
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


@pytest.mark.parametrize("case", CASES[:: 4 if len(SETS) > 1 else 1], ids=str)
def test_random_numbers_are_as_close_to_float64_as_float32_allows(each_set, case):
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


@pytest.mark.parametrize(("m", "k", "n"), [(1, 16, 80), (7, 48, 16), (13, 1040, 96), (64, 2064, 64), (33, 512, 128)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_wide_dense_layers_are_exact_for_whole_numbers(each_set, m, k, n, bfloat16):
    rng = np.random.default_rng(k)
    x, w, g = (whole_numbers(rng, *shape) for shape in ((m, k), (k, n), (m, n)))
    y, pull = jax.vjp(functools.partial(kernels.dense, bfloat16=bfloat16), x, w)
    dx, dw = pull(jnp.asarray(g))
    for found, wanted in ((y, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_wide_dense_layers_round_factors_alone(each_set, bfloat16):
    rounds = bfloat16 and kernels.instruction_set() == "avx512bf16"
    rng = np.random.default_rng(1)
    x, w, g = (rng.normal(size=shape).astype(np.float32) for shape in ((13, 1040), (1040, 48), (13, 48)))
    y, pull = jax.vjp(functools.partial(kernels.dense, bfloat16=bfloat16), x, w)
    dx, dw = pull(jnp.asarray(g))
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


BLOCK = {"padding": 1, "pool_stride": 0}
REFUSED = {
    "channels": ((2, 8, 8, 3), (3, 3, 3, 24), BLOCK, "24 output channels; give a multiple of 16"),
    "window": ((2, 8, 8, 3), (5, 5, 3, 16), BLOCK, r"give \[n, h, w, ci\] and \[3, 3, ci, co\]"),
    "other channels": ((2, 8, 8, 4), (3, 3, 3, 16), BLOCK, r"x is \[2, 8, 8, 4\]"),
    "rank": ((8, 8, 3), (3, 3, 3, 16), BLOCK, r"x is \[8, 8, 3\]"),
    "padding": ((2, 8, 8, 3), (3, 3, 3, 16), {"padding": 2, "pool_stride": 0}, "padding is 0 or 1"),
    "stride": ((2, 8, 8, 3), (3, 3, 3, 16), {"padding": 1, "pool_stride": 3}, "pool_stride 0, 1 or 2"),
    "small": ((2, 3, 3, 3), (3, 3, 3, 16), {"padding": 0, "pool_stride": 2}, "nothing is left of images of 3x3 pixels"),
    "empty": ((0, 8, 8, 3), (3, 3, 3, 16), BLOCK, "dimensions go from 1"),
    "huge": ((2**22, 2**12, 2**12, 3), (3, 3, 3, 16), BLOCK, "dimensions go from 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_when_it_is_traced(name):
    x, w, options, message = REFUSED[name]
    assert not kernels.supports_block(x, w, **options)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, w, w[-1:])]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(kernels.conv_block, **options), *arrays)


def test_other_types_and_biases_are_refused():
    x, w, b = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 16)), jnp.zeros(16)
    with pytest.raises(ValueError, match="x is bfloat16; give float32 or uint8"):
        kernels.conv_block(x.astype(jnp.bfloat16), w, b, **BLOCK)
    with pytest.raises(ValueError, match="w is int32; give float32"):
        kernels.conv_block(x, w.astype(jnp.int32), b, **BLOCK)
    with pytest.raises(ValueError, match=r"b is \[8\]; make it \[16\]"):
        kernels.conv_block(x, w, b[:8], **BLOCK)


def test_dense_layers_that_do_not_fit_are_refused():
    assert kernels.supports_dense((5, 32), (32, 16))
    for x, w in (((5, 30), (30, 16)), ((5, 32), (32, 5)), ((5, 32), (48, 16)), ((0, 32), (32, 16)), ((5, 32, 1), (32, 16))):
        assert not kernels.supports_dense(x, w)
        with pytest.raises(ValueError, match="^dense: "):
            jax.eval_shape(kernels.dense, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, w)))


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


WRONG_CALLS = {  # handler, results, shapes of operands
    "output": ("conv_forward", (f32(2, 8, 8, 32),), ((2, 8, 8, 3), (3, 3, 3, 16), (16,))),
    "bias": ("conv_forward", (f32(2, 8, 8, 16),), ((2, 8, 8, 3), (3, 3, 3, 16), (8,))),
    "code": ("conv_forward", (f32(2, 8, 8, 16), f32(2, 8, 8, 16)), ((2, 8, 8, 3), (3, 3, 3, 16), (16,))),
    "outputs": ("conv_forward", (f32(2, 8, 8, 16),) * 2, ((2, 8, 8, 3), (3, 3, 3, 16), (16,))),
    "layers": ("conv_forward", (f32(2, 8, 8, 16),), ((2, 8, 8, 3), (3, 3, 3, 16), (16,), (3, 3, 16, 16), (16,))),
    "rank": ("conv_forward", (f32(2, 8, 16),), ((2, 8, 3), (3, 3, 3, 16), (16,))),
    "multiple": ("conv_forward", (f32(2, 8, 8, 8),), ((2, 8, 8, 3), (3, 3, 3, 8), (8,))),
    "kept": ("conv_backward", (f32(3, 3, 3, 16), f32(16)), ((2, 8, 8, 3), (3, 3, 3, 16), (2, 7, 8, 16), (2, 8, 8, 16))),
    "gradient": ("conv_backward", (f32(3, 3, 3, 8), f32(16)), ((2, 8, 8, 3), (3, 3, 3, 16), *((2, 8, 8, 16),) * 2)),
    "images": ("conv_backward", (f32(3, 3, 3, 16), f32(16), f32(2, 8, 8, 4)),
               ((2, 8, 8, 3), (3, 3, 3, 16), *((2, 8, 8, 16),) * 2)),
    "dense": ("dense_forward", (f32(4, 32),), ((4, 32), (32, 16))),
    "dense back": ("dense_backward", (f32(4, 32), f32(16, 32)), ((4, 32), (32, 16), (4, 16))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_the_library_checks_shapes_itself(name):
    handler, results, shapes = WRONG_CALLS[name]
    conv = {"paddings": np.int64([1]), "pool_strides": np.int64([0]), "scale": np.float32(1), "bfloat16": np.bool_(False)}
    bfloat16 = {"bfloat16": np.bool_(False)}
    call = jax.ffi.ffi_call(f"cnnjax_{kernels.instruction_set()}_{handler}", results)
    with pytest.raises(jax.errors.JaxRuntimeError, match="cnnjax kernels: "):
        jax.block_until_ready(call(*(jnp.zeros(shape) for shape in shapes), **(conv if handler[:4] == "conv" else bfloat16)))


@pytest.fixture
def small():
    rng = np.random.default_rng(3)
    x, w, b = whole_numbers(rng, 3, 6, 7, 16), whole_numbers(rng, 3, 3, 16, 16), whole_numbers(rng, 16)
    return functools.partial(kernels.conv_block, padding=1, pool_stride=1), x, w, b


def test_the_gradient_of_the_images_is_left_out_where_nobody_needs_it(small):
    block, x, w, b = small
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


def test_forward_mode_says_that_it_is_not_there(small):
    block, *arrays = small
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(block, tuple(arrays), tuple(arrays))


def test_vmap_takes_one_after_the_other(small):
    block, x, w, b = small
    many = np.stack([x, 2 * x])

    def loss(x, w):
        return (block(x, w, b) ** 2).sum()

    for transformed in (jax.vmap(jax.grad(loss), (0, None)), jax.grad(lambda x, w: jax.vmap(loss, (0, None))(x, w).sum())):
        found = transformed(many, w)
        for i in range(2):
            np.testing.assert_array_equal(found[i], jax.grad(loss)(many[i], w))


def test_checkpoint_gives_the_same_gradients(small):
    block, *arrays = small

    def loss(x, w, b):
        return (block(block(x, w, b), w, b) ** 2).sum()

    again = jax.jit(jax.grad(jax.checkpoint(loss), (0, 1, 2)))(*arrays)
    for a, c in zip(again, jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays), strict=True):
        np.testing.assert_array_equal(a, c)


NETWORK = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnnjax.kernels import blocks as kernels
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
images = rng.integers(0, 256, (16, 40, 13, 3), np.uint8)
params = [draw(3, 3, 3, 16), draw(16), draw(3, 3, 16, 32) / 12, draw(32), draw(20 * 6 * 32, 64) / 60]
def loss(params, images):
    w1, b1, w2, b2, w3 = params
    blocks = [kernels.Block(w1, b1, 1, 2), kernels.Block(w2, b2, 1, 0)]
    x = kernels.conv_blocks(images, blocks, scale=1 / 255, input_grad=False)
    return (kernels.dense(x.reshape(x.shape[0], -1), w3) ** 2).mean()
step = jax.jit(jax.value_and_grad(loss))
"""


def test_results_do_not_depend_on_the_number_of_threads():
    assert len(results_on_threads(NETWORK)) == 1


DEVICES = NETWORK + """
found = {}
for count in (1, 2, 8):
    mesh = jax.make_mesh((count // min(count, 2), min(count, 2)), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[:count])
    place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    spread = [place(array) for array in params[:4]] + [place(params[4], "fsdp")]
    batch = place(images, ("data", "fsdp"))
    loss_value, grads = step(spread, batch)
    text = step.lower(spread, batch).compile().as_text()
    found[count] = {"loss": float(loss_value), "grads": [np.asarray(g).ravel().tolist()[::97] for g in grads],
                    "gathered": text.count(" all-gather("), "summed": text.count(" all-reduce(")}
print(json.dumps(found))
"""  # fmt: skip


def test_one_two_and_eight_devices_give_the_same():
    found = on_devices(8, DEVICES)
    one = found["1"]
    for count in ("2", "8"):
        several = found[count]
        assert several["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for a, c in zip(several["grads"], one["grads"], strict=True):
            np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5 * np.abs(c).max())
        assert several["gathered"] <= 1, "the batch is put together; only the divided weights may be"
        assert several["summed"] >= 1
    assert one["gathered"] == one["summed"] == 0


def test_a_batch_is_divided_by_shard_map_too():
    code = NETWORK + """
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
spec = PartitionSpec("data")
block = lambda x: kernels.conv_block(x, params[0], params[1], padding=0, pool_stride=1)
parts = jax.jit(jax.shard_map(block, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))(images)
print(json.dumps(bool((np.asarray(parts) == np.asarray(block(images))).all())))
"""  # fmt: skip
    assert on_devices(4, code)


@pytest.mark.slow
def test_memory_does_not_grow_in_100_000_calls():
    code = (
        NETWORK
        + """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def loss(w, x):
    return kernels.conv_block(x, w, params[1], padding=1, pool_stride=1).sum()
many = jax.jit(lambda w, x: jax.lax.fori_loop(0, 100, lambda i, w: w - 1e-3 * jax.grad(loss)(w, x), w))
for i in range(1_000):
    if i == 100:
        before = resident()
    jax.block_until_ready(many(params[0], images[:2, :8, :8]))
    if i % 10 == 0:
        jax.block_until_ready(step(params, images))
print(json.dumps(resident() - before))
"""
    )
    assert on_devices(1, code) < 20e6
