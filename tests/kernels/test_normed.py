"""Convolutions without bias and batch normalisation on the CPU's own kernels give what JAX and Flax give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from test_kernels import SETS, each_set, f32, whole_numbers  # noqa: F401
from training_tools import on_devices, results_on_threads

from cnnjax.kernels import PLAIN, library, normed
from cnnjax.kernels import blocks as kernels

HIGHEST = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}

# Images [n, h, w, ci], output channels, kernel, stride.
CASES = (
    ((1, 1, 1, 16), 16, 3, 1),
    ((2, 2, 2, 64), 64, 3, 1),  # fewer tiles than channels: weights are laid out where they are used
    ((3, 5, 7, 16), 32, 3, 1),
    ((1, 4, 1, 48), 16, 3, 1),
    ((70, 6, 5, 32), 16, 3, 1),
    ((3, 38, 41, 96), 32, 3, 1),  # several chunks of what the gradient of the weights is summed over
    ((2, 6, 6, 5), 16, 3, 1),  # channels that do not fill a vector, and no gradient of the images but XLA's
    ((3, 5, 8, 16), 48, 3, 2),
    ((9, 4, 4, 32), 16, 3, 2),
    ((1, 30, 31, 64), 32, 3, 2),
    ((2, 9, 12, 3), 16, 7, 2),
    ((2, 3, 4, 16), 16, 7, 2),  # an image smaller than the kernel
    ((2, 7, 6, 16), 16, 5, 3),
    ((5, 6, 3, 32), 16, 1, 1),
    ((2, 7, 6, 16), 64, 1, 2),
)


def pure_conv(x, w, *, stride: int):
    edge = w.shape[0] // 2
    return lax.conv_general_dilated(x, w, (stride, stride), ((edge, edge),) * 2, **HIGHEST)


def with_gradients(conv, x, w, g, stride):
    """y, dx, dw in one program."""

    def call(x, w, g):
        y, pull = jax.vjp(functools.partial(conv, stride=stride), x, w)
        return y, *pull(g)

    return [np.asarray(array) for array in jax.jit(call)(x, w, g)]


def out_shape(x, co, stride):
    return x[0], -(-x[1] // stride), -(-x[2] // stride), co


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_give_exactly_what_jax_gives(case):
    shape, co, kernel, stride = case
    rng = np.random.default_rng([*shape, co])
    x, w = whole_numbers(rng, *shape), whole_numbers(rng, kernel, kernel, shape[3], co, most=2)
    g = whole_numbers(rng, *out_shape(shape, co, stride))
    wanted = with_gradients(pure_conv, x, w, g, stride)
    for name in SETS:
        library.register(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "instruction_set", lambda name=name: name)
            found = with_gradients(normed.conv, x, w, g, stride)
        for what, a, c in zip(("y", "dx", "dw"), found, wanted, strict=True):
            np.testing.assert_array_equal(a, c, err_msg=f"{what}, {name}")


@pytest.mark.parametrize("case", CASES[1::3], ids=str)
def test_random_numbers_are_as_close_to_float64_as_float32_allows(each_set, case):  # noqa: F811
    shape, co, kernel, stride = case
    rng = np.random.default_rng([*shape, co])
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, (kernel, kernel, shape[3], co)))
    g = rng.standard_normal(out_shape(shape, co, stride)).astype(np.float32)
    edge, (_, rows, columns, _) = kernel // 2, g.shape
    wide = np.pad(x.astype(np.float64), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    y, dx, dw = np.zeros(g.shape), np.zeros(wide.shape), np.zeros(w.shape)
    for i in range(kernel):
        for j in range(kernel):
            window = (
                slice(None),
                slice(i, i + (rows - 1) * stride + 1, stride),
                slice(j, j + (columns - 1) * stride + 1, stride),
            )
            y += wide[window] @ w[i, j].astype(np.float64)
            dw[i, j] = np.tensordot(wide[window], g.astype(np.float64), ((0, 1, 2),) * 2)
            dx[window] += g @ w[i, j].T.astype(np.float64)
    inner = slice(edge, -edge or None)
    for a, c in zip(with_gradients(normed.conv, x, w, g, stride), (y, dx[:, inner, inner], dw), strict=True):
        assert np.abs(a - c).max() <= 5e-6 * np.abs(c).max()


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 1)])
def test_nan_reaches_every_output_that_sees_it(each_set, stride, kernel):  # noqa: F811
    x, w = np.ones((2, 9, 8, 16), np.float32), np.ones((kernel, kernel, 16, 32), np.float32)
    x[1, 4, 5, 3] = np.nan
    found, wanted = (np.isnan(conv(x, w, stride=stride)) for conv in (normed.conv, pure_conv))
    assert wanted.any() and found[wanted].all()
    assert not found[0].any() and found.sum() <= (4 if kernel == 3 and stride == 1 else 1) * max(wanted.sum(), 1) * 2


def reference_norm(x, scale, bias, more, *, epsilon, relu):
    norm = nnx.BatchNorm(x.shape[-1], use_running_average=False, epsilon=epsilon, momentum=0.0, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = scale, bias
    y = norm(x)
    y = y if more is None else y + more
    return (nnx.relu(y) if relu else y), norm.mean[...], norm.var[...]


@pytest.mark.parametrize("shape", [(9, 1, 1, 16), (3, 5, 7, 48), (70, 3, 3, 16), (5, 160)], ids=str)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_batch_norm_and_its_gradients_are_those_of_flax(monkeypatch, shape, relu, adds):
    rng = np.random.default_rng(shape[-1])
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    arrays = [draw(*shape) * 2 + 1, draw(shape[-1]), draw(shape[-1]), *([draw(*shape)] if adds else [])]
    g = draw(*shape)

    def results(norm):
        def call(*arrays):
            full = arrays if adds else (*arrays, None)
            y, *found = norm(*full, epsilon=1e-5, relu=relu)
            return y, found

        @jax.jit
        def all_of_them(*arrays):
            y, pull, found = jax.vjp(call, *arrays, has_aux=True)
            return y, *found, *pull(g)

        return all_of_them(*arrays)

    names, wanted = ("y", "mean", "var", "dx", "dscale", "dbias", "dmore"), results(reference_norm)
    for instructions in SETS:
        library.register(instructions)
        monkeypatch.setattr(kernels, "instruction_set", lambda name=instructions: name)
        for name, a, c in zip(names, results(normed.batch_norm), wanted, strict=False):
            np.testing.assert_allclose(a, c, rtol=1e-4, atol=2e-5 * np.abs(c).max(), err_msg=f"{name}, {instructions}")


def test_batch_norm_of_equal_numbers_is_its_bias(each_set):  # noqa: F811
    x = np.full((4, 4, 16), 3, np.float32)
    y, mean, var = normed.batch_norm(x, np.ones(16, np.float32), np.arange(16, dtype=np.float32), epsilon=1e-5, relu=False)
    assert (np.asarray(mean) == 3).all() and (np.asarray(var) == 0).all()
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(16.0), x.shape))


@pytest.mark.parametrize("shape", [(2, 1, 1, 16), (1, 1, 6, 48), (3, 5, 4, 16), (2, 8, 9, 32)], ids=str)
def test_the_pool_sends_gradients_where_jax_does_at_ties_too(monkeypatch, shape):
    rng = np.random.default_rng(0)
    x = whole_numbers(rng, *shape) - 4  # below zero, where padding with zeros would be seen
    wanted, pull_wanted = jax.vjp(functools.partial(PLAIN.max_pool, window=3, stride=2, padding=1), x)
    g = whole_numbers(rng, *wanted.shape)
    (dx,) = pull_wanted(g)
    for instructions in SETS:
        library.register(instructions)
        monkeypatch.setattr(kernels, "instruction_set", lambda name=instructions: name)
        y, pull = jax.vjp(normed.max_pool, x)
        for found, expected in ((y, wanted), (normed.max_pool(x), wanted), (pull(g)[0], dx)):
            np.testing.assert_array_equal(found, expected, err_msg=instructions)


def test_the_pool_keeps_nan_and_infinities(each_set):  # noqa: F811
    x = np.zeros((1, 8, 8, 16), np.float32)
    x[0, 2, 2], x[0, 6, 6], x[0, 4:, :4] = np.nan, np.inf, -np.inf
    y, pull = jax.vjp(normed.max_pool, x)
    np.testing.assert_array_equal(y, PLAIN.max_pool(jnp.asarray(x), 3, 2, 1))
    assert np.asarray(pull(np.ones_like(y))[0]).sum() == (np.isfinite(y) | np.isinf(y)).sum()


REFUSED = {
    "channels": ((2, 8, 8, 3), (3, 3, 3, 24), 1, "24 output channels; give a multiple of 16"),
    "even": ((2, 8, 8, 3), (2, 2, 3, 16), 1, r"give \[n, h, w, ci\] and \[k, k, ci, co\] with an odd k"),
    "other channels": ((2, 8, 8, 4), (3, 3, 3, 16), 1, r"x is \[2, 8, 8, 4\]"),
    "stride": ((2, 8, 8, 3), (3, 3, 3, 16), 0, "stride=0; give 1 or more"),
    "empty": ((0, 8, 8, 3), (3, 3, 3, 16), 1, "dimensions go from 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_when_it_is_traced(name):
    x, w, stride, message = REFUSED[name]
    assert not normed.supports_conv(x, w, stride)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(normed.conv, stride=stride), f32(*x), f32(*w))


def test_a_pool_that_does_not_fit_is_refused():
    assert normed.supports_max_pool((1, 4, 4, 16), (3, 2, 1))
    for shape, window in (((1, 4, 4, 8), (3, 2, 1)), ((4, 4, 16), (3, 2, 1)), ((1, 4, 4, 16), (2, 2))):
        assert not normed.supports_max_pool(shape, window)
    with pytest.raises(ValueError, match=r"max_pool: x is \[4, 4, 16\]; give \[n, h, w, channels\]"):
        jax.eval_shape(normed.max_pool, f32(4, 4, 16))


def test_a_norm_that_does_not_fit_is_refused():
    norm = functools.partial(normed.batch_norm, epsilon=1e-5, relu=True)
    assert not normed.supports_norm((2, 8)) and not normed.supports_norm((16,)) and normed.supports_norm((2, 16))
    with pytest.raises(ValueError, match=r"x is \[2, 8\]; give \[n, ..., channels\]"):
        jax.eval_shape(norm, f32(2, 8), f32(8), f32(8))
    with pytest.raises(ValueError, match=r"more is \[3, 16\]; give scale and bias \[16\], and more as x"):
        jax.eval_shape(norm, f32(2, 16), f32(16), f32(16), f32(3, 16))


WRONG_CALLS = {  # handler, results, shapes of operands
    "output": ("plain_forward", (f32(2, 8, 8, 32),), ((2, 8, 8, 3), (3, 3, 3, 16))),
    "multiple": ("plain_forward", (f32(2, 8, 8, 8),), ((2, 8, 8, 3), (3, 3, 3, 8))),
    "square": ("plain_forward", (f32(2, 8, 8, 16),), ((2, 8, 8, 3), (3, 1, 3, 16))),
    "weights": ("plain_backward", (f32(3, 3, 16, 32),), ((2, 8, 8, 16), (3, 3, 16, 16), (2, 8, 8, 16))),
    "images": ("plain_backward", (f32(3, 3, 3, 16), f32(2, 8, 8, 3)), ((2, 8, 8, 3), (3, 3, 3, 16), (2, 8, 8, 16))),
    "sums": ("norm_sums", (f32(16), f32(8)), ((2, 16),)),
    "channels": ("norm_sums", (f32(8), f32(8)), ((2, 8),)),
    "norm": ("norm_forward", (f32(2, 16),), ((2, 16), (16,), (16,), (8,))),
    "added": ("norm_forward", (f32(2, 16),), ((2, 16), (16,), (16,), (16,), (3, 16))),
    "gradient sums": ("norm_gradient_sums", (f32(16), f32(16)), ((2, 16), (2, 16), (3, 16), (16,))),
    "pool": ("max_pool_forward", (f32(2, 4, 4, 16),), ((2, 9, 8, 16),)),
    "code": ("max_pool_forward", (f32(2, 4, 4, 16), f32(2, 4, 4, 16)), ((2, 8, 8, 16),)),
    "gradient": ("norm_backward", (f32(2, 16), f32(1, 16)), ((2, 16), (2, 16), (2, 16), (16,), (16,), (16,), (16,))),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_the_library_checks_shapes_itself(name):
    handler, results, shapes = WRONG_CALLS[name]
    options = (
        {"stride": np.int64(1)} if handler[:5] == "plain" else {} if handler == "norm_sums" else {"relu": np.bool_(True)}
    )
    call = jax.ffi.ffi_call(f"cnnjax_{kernels.instruction_set()}_{handler}", results)
    with pytest.raises(jax.errors.JaxRuntimeError, match="cnnjax kernels: "):
        jax.block_until_ready(call(*(jnp.zeros(shape) for shape in shapes), **options))


NETWORK = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnnjax.kernels import normed
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
images = draw(16, 40, 26, 3)
params = [draw(7, 7, 3, 16) / 12, draw(16), draw(16), draw(3, 3, 16, 32) / 12, draw(32), draw(32), draw(3, 3, 32, 32) / 17,
          draw(32), draw(32)]
norm = lambda *arrays: normed.batch_norm(*arrays, epsilon=1e-5, relu=True)
def loss(params, images):
    w1, s1, b1, w2, s2, b2, w3, s3, b3 = params
    x, mean, _ = norm(normed.conv(images, w1, stride=2), s1, b1)
    x, *_ = norm(normed.conv(normed.max_pool(x), w2, stride=2), s2, b2)
    x, *_ = norm(normed.conv(x, w3, stride=1), s3, b3, x)
    return (x ** 2).mean() + (x[:, ::2] ** 3).mean(), mean
step = jax.jit(jax.value_and_grad(loss, has_aux=True))
"""


def test_results_do_not_depend_on_the_number_of_threads():
    assert len(results_on_threads(NETWORK)) == 1


DEVICES = NETWORK + """
found = {}
for count in (1, 2, 8):
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    (value, mean), grads = step([place(array) for array in params], place(images, "data"))
    text = step.lower([place(array) for array in params], place(images, "data")).compile().as_text()
    found[count] = [np.asarray(leaf).ravel().tolist() for leaf in (value, mean, *grads)] + [text.count(" all-gather(")]
print(json.dumps(found))
"""  # fmt: skip


def test_one_two_and_eight_devices_give_the_same_with_the_statistics_of_the_whole_batch():
    found = on_devices(8, DEVICES)
    for count in ("2", "8"):
        assert found[count].pop() == 0, "the batch is put together"
        for a, c in zip(found[count], found["1"], strict=False):
            np.testing.assert_allclose(a, c, rtol=1e-4, atol=2e-5 * np.abs(c).max())


def small_loss(x, w, scale, bias):
    y, *_ = normed.batch_norm(normed.conv(x, w, stride=1), scale, bias, x, epsilon=1e-5, relu=True)
    return (y**3).sum()


def small_arrays():
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 6, 7, 16), (3, 3, 16, 16), (16,), (16,))]


def test_checkpoint_gives_the_same_gradients():
    arrays, places = small_arrays(), (0, 1, 2, 3)
    again = jax.jit(jax.grad(jax.checkpoint(small_loss), places))(*arrays)
    for a, c in zip(again, jax.jit(jax.grad(small_loss, places))(*arrays), strict=True):
        np.testing.assert_array_equal(a, c)


def test_vmap_takes_one_after_the_other():
    x, *rest = small_arrays()
    many = np.stack([x, 2 * x])
    found = jax.vmap(jax.grad(small_loss), (0, None, None, None))(many, *rest)
    for i in range(2):
        np.testing.assert_array_equal(found[i], jax.grad(small_loss)(many[i], *rest))


def test_the_gradient_of_images_is_left_out_of_the_program_where_nobody_needs_it():
    arrays = small_arrays()
    x, w = arrays[0][..., :3], arrays[1][:, :, :3]
    text = jax.jit(jax.grad(lambda w: (normed.conv(x, w, stride=2) ** 2).sum())).lower(w).compile().as_text()
    assert "plain_backward" in text and " convolution(" not in text


def test_memory_that_is_kept_is_bounded():
    code = """
import json, jax, jax.numpy as jnp
from cnnjax.kernels import normed
step = jax.jit(jax.grad(lambda w, x: (normed.conv(x, w, stride=1) ** 2).sum()))
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
