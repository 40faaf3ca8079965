"""Arrays that do not fit are refused when a kernel is traced, and again by the library that is called with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.kernels import Link, adam, available, convs, library, linked, normed, orthogonal, sampling, why_not
from cnnjax.kernels import blocks as kernels

if not available():
    pytest.skip(why_not(), allow_module_level=True)


def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


X, W, B = (2, 8, 8, 3), (3, 3, 3, 16), (16,)
SAME = {"padding": 1, "pool_stride": 0}
VECTOR = array(9)
Y, DEEP, NONE = (2, 8, 8, 16), (3, 3, 1, 16), ((0, 0), (0, 0))
ONE = {"stride": 1, "padding": ((1, 1), (1, 1))}
DENSE = r"give \[n, k\] and \[k, units\]"
NORM = {"epsilon": 1e-5, "activation": "relu"}
ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
BITS = {"bits": 20, "interpolation": "nearest", "fill": "wrap"}
BYTES = array(*X, dtype="uint8")
FACTORS = array(2, 2, 3, dtype="int32")


def links_of(x, *arrays, activation="relu", adds=None, gated=False, **options):
    """Returns `linked.chain` of one or several convolutions with equal options."""
    links = [Link(*arrays[i : i + 3], **({"stride": 1, "padding": NONE} | options), epsilon=1e-5, activation=activation)
             for i in range(0, len(arrays) // 3 * 3, 3)]  # fmt: skip
    return linked.chain(x, links, arrays[-1] if adds else None, (lambda means: means) if gated else None)


POINT, GELU = (1, 1, 16, 32), {"activation": "gelu"}
REFUSED = {  # what is wrong: arrays, options, what the error says
    kernels.conv_block: {
        "channels": ((X, (3, 3, 3, 24), (24,)), SAME, "24 output channels; give a multiple of 16"),
        "window": ((X, (5, 5, 3, 16), B), SAME, r"give \[n, h, w, ci\] and \[3, 3, ci, co\]"),
        "other channels": (((2, 8, 8, 4), W, B), SAME, r"x is \[2, 8, 8, 4\]"),
        "rank": (((8, 8, 3), W, B), SAME, r"x is \[8, 8, 3\]"),
        "padding": ((X, W, B), {"padding": 2, "pool_stride": 0}, "padding is 0 or 1"),
        "stride": ((X, W, B), {"padding": 1, "pool_stride": 3}, "pool_stride 0, 1 or 2"),
        "small": (((2, 3, 3, 3), W, B), {"padding": 0, "pool_stride": 2}, "nothing is left of images of 3x3 pixels"),
        "empty": (((0, 8, 8, 3), W, B), SAME, "dimensions go from 1"),
        "huge": (((2**22, 2**12, 2**12, 3), W, B), SAME, "dimensions go from 1"),
        "images of bfloat16": ((array(*X, dtype="bfloat16"), W, B), SAME, "x is bfloat16; give float32 or uint8"),
        "weights of int32": ((X, array(*W, dtype="int32"), B), SAME, "w is int32; give float32"),
        "bias": ((X, W, (8,)), SAME, r"b is \[8\]; make it \[16\]"),
    },
    kernels.dense: {
        "inputs": (((5, 30), (30, 16)), {}, r"w is \[30, 16\]; give multiples of 16"),
        "units": (((5, 32), (32, 5)), {}, r"w is \[32, 5\]; give multiples of 16"),
        "other inputs": (((5, 32), (48, 16)), {}, DENSE),
        "empty": (((0, 32), (32, 16)), {}, "dimensions go from 1"),
        "rank": (((5, 32, 1), (32, 16)), {}, DENSE),
        "type": ((array(5, 32, dtype="bfloat16"), (32, 16)), {}, "x is bfloat16; give float32"),
    },
    convs.conv: {
        "channels": ((X, (3, 3, 3, 24)), ONE, "24 output channels; give a multiple of 16"),
        "product": ((Y, (1, 1, 16, 18)), {"stride": 1, "padding": NONE}, "18 output channels; give a multiple of 16"),
        "even": ((X, (2, 2, 3, 16)), ONE, r"give \[n, h, w, ci\] and \[k, k, ci, co\] with an odd k"),
        "other channels": (((2, 8, 8, 4), W), ONE, r"x is \[2, 8, 8, 4\]"),
        "stride": ((X, W), ONE | {"stride": 0}, "stride=0; give 1 or more"),
        "padding": ((X, W), {"stride": 1, "padding": ((0, 3), (0, 0))}, "give 0 to 2 zeros a side"),
        "small": (((2, 2, 8, 3), W), {"stride": 1, "padding": NONE}, "nothing is left of images of 2x8 pixels"),
        "empty": (((0, 8, 8, 3), W), ONE, "dimensions go from 1"),
    },
    convs.depthwise: {
        "kernel": ((Y, (9, 9, 1, 16)), ONE, r"give \[n, h, w, c\] and \[k, k, 1, c\] with a k of 3, 5 or 7"),
        "other channels": ((Y, (3, 3, 1, 32)), ONE, r"w is \[3, 3, 1, 32\]"),
        "all channels": ((Y, (3, 3, 16, 16)), ONE, r"w is \[3, 3, 16, 16\]"),
        "few channels": (((2, 8, 8, 8), (3, 3, 1, 8)), ONE, "8 channels; give 16 or more"),
        "stride": ((Y, DEEP), ONE | {"stride": 3}, "stride=3; give 1 or 2"),
        "padding": ((Y, DEEP), {"stride": 1, "padding": ((-1, 1), (0, 0))}, "give 0 to 2 zeros a side"),
        "small": (((2, 2, 8, 16), DEEP), {"stride": 1, "padding": NONE}, "nothing is left of images of 2x8 pixels"),
    },
    convs.finished: {
        "tiles": ((Y, (3, 3, 16, 16), B), ONE | {"activation": "relu"}, "nothing can follow this convolution, use conv"),
        "activation": ((Y, DEEP, B), ONE | {"activation": "sigmoid"}, "activation=sigmoid; give one of none, relu"),
        "type": ((Y, DEEP, array(16, dtype="int32")), ONE | {"activation": "relu"}, "offset is int32; give float32"),
        "offset": ((Y, DEEP, (8,)), ONE | {"activation": "relu"}, r"offset is \[8\]; give \[16\]"),
    },
    links_of: {
        "none": ((Y,), {}, "0 links; give one or more"),
        "one with a gate": ((Y, POINT, (32,), (32,)), {"gated": True}, "1 links; give one or more, two with a gate"),
        "gate": ((Y, *(DEEP, B, B) * 2), ONE | {"gated": True}, "behind a gate; give a convolution of all channels"),
        "channels": ((X, (1, 1, 3, 16), B, B), {}, r"w is \[1, 1, 3, 16\]; give a kernel of one pixel, or one for each channel"),
        "small": (((2, 2, 8, 16), DEEP, B, B), {}, r"x is \[2, 2, 8, 16\] and w is \[3, 3, 1, 16\]; let JAX compute these layers"),
        "kernel": ((Y, (3, 3, 16, 16), B, B), ONE, "give a kernel of one pixel, or one for each channel"),
        "stride": ((Y, POINT, (32,), (32,)), {"stride": 2}, "give a kernel of one pixel, or one for each channel"),
        "activation": ((Y, POINT, (32,), (32,)), {"activation": "sigmoid"}, "activation=sigmoid; give one of none, relu"),
        "scale": ((Y, POINT, B, (32,)), {}, r"scale is \[16\] and bias is \[32\]; give \[32\]"),
        "second": ((Y, POINT, (32,), (32,), array(1, 1, 32, 16, dtype="int32"), B, B), {}, "link 2: w is int32; give float32"),
        "sum": ((Y, POINT, (32,), (32,), Y), {"activation": "none", "adds": True}, r"more is \[2, 8, 8, 16\]; give \[2, 8, 8, 32\]"),
        "activated sum": ((Y, POINT, (32,), (32,), (2, 8, 8, 32)), {"adds": True}, "activation=relu of a link that something is added to"),
    },
    linked.mlp: {
        "rank": (((5, 16), (16, 64), (64,), (64, 16), B), GELU, r"x is \[5, 16\], w1 is \[16, 64\] and w2 is \[64, 16\]; give \[n, ..., k\]"),
        "wide": (((2, 5, 16), (16, 64), (64,), (32, 16), B), GELU, r"w2 is \[32, 16\]"),
        "channels": (((2, 5, 16), (16, 66), (66,), (66, 16), B), GELU, "66 channels; give a multiple of 4, 16 or more"),
        "bias": (((2, 5, 16), (16, 64), B, (64, 16), B), GELU, r"b1 is \[16\] and b2 is \[16\]; give \[64\] and \[16\]"),
        "type": (((2, 5, 16), (16, 64), array(64, dtype="int32"), (64, 16), B), GELU, "b1 is int32; give float32"),
        "activation": (((2, 5, 16), (16, 64), (64,), (64, 16), B), {"activation": "sigmoid"}, "activation=sigmoid; give one of none, relu"),
    },
    normed.batch_norm: {
        "channels": (((2, 8), (8,), (8,)), NORM, r"x is \[2, 8\]; give \[n, ..., channels\], 16 channels or more"),
        "activation": (((2, 16), B, B), NORM | {"activation": "silu"}, "activation=silu; give one of none, relu, relu6"),
        "rank": ((B, B, B), NORM, r"x is \[16\]; give \[n, ..., channels\]"),
        "sum": (((2, 16), B, B, (3, 16)), NORM, r"more is \[3, 16\]; give scale and bias \[16\], and more as x"),
    },
    normed.max_pool: {
        "channels": (((1, 4, 4, 8),), {}, r"x is \[1, 4, 4, 8\]"),
        "rank": (((4, 4, 16),), {}, r"x is \[4, 4, 16\]; give \[n, h, w, channels\]"),
    },
    sampling.sample: {
        "rank": ((array(8, 8, 3, dtype="uint8"), array(8, 2, 3, dtype="int32")), BITS,
                 r"images are \[8, 8, 3\]; give \[b, h, w, c\]"),
        "type": ((array(*X, dtype="int32"), FACTORS), BITS, "images is int32; give float32 or uint8"),
        "factors": ((BYTES, array(3, 2, 3, dtype="int32")), BITS, r"factors are int32 \[3, 2, 3\]; give int32 \[2, 2, 3\]"),
        "bits": ((BYTES, FACTORS), BITS | {"bits": 28}, "bits=28; give at least 1"),
        "fill": ((BYTES, FACTORS), BITS | {"fill": "mirror"}, "fill=mirror; give one of reflect, nearest"),
        "interpolation": ((BYTES, FACTORS), BITS | {"interpolation": "cubic"}, "give one of bilinear, nearest"),
    },
    orthogonal.orthogonal: {
        "rank": (((3, 3, 16),), {}, r"x is \[3, 3, 16\]; give \[rows, columns\]"),
        "wide": (((16, 32),), {}, "no more than the rows"),
        "columns": (((40, 24),), {}, "columns a multiple of 16"),
        "type": ((array(32, 16, dtype="bfloat16"),), {}, "x is bfloat16; give float32"),
    },
    adam.update: {
        "shape": (((4,), (5,), (9,), (9,), (9,)), ADAM, "give four that are equal"),
        "type": (((4,), VECTOR, VECTOR, array(9, dtype="bfloat16"), VECTOR), ADAM, "m is bfloat16; give float32"),
    },
}  # fmt: skip


NAMES = {adam.update: "adam", links_of: "chain"}


@pytest.mark.parametrize(
    ("function", "wrong"), [(function, wrong) for function, entries in REFUSED.items() for wrong in entries],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_when_they_are_traced(function, wrong):
    arrays, options, message = REFUSED[function][wrong]
    arrays = [array(*given) if isinstance(given, tuple) else given for given in arrays]
    with pytest.raises(ValueError, match=f"^{NAMES.get(function, function.__name__)}: .*{message}"):
        jax.eval_shape(functools.partial(function, **options), *arrays)


def test_shapes_are_supported_that_are_not_refused():
    supports = {kernels.conv_block: kernels.supports_block, kernels.dense: kernels.supports_dense,
                convs.conv: convs.supports_conv, convs.depthwise: convs.supports_depthwise}  # fmt: skip
    for function, supported in supports.items():
        for wrong, (arrays, options, _) in REFUSED[function].items():
            if all(isinstance(given, tuple) for given in arrays) and wrong != "bias":
                assert not supported(*arrays[:2], **options), wrong
    assert (
        kernels.supports_block(X, W, **SAME)
        and kernels.supports_dense((5, 32), (32, 16))
        and convs.supports_conv(X, W, **ONE)
    )
    assert normed.supports_norm((2, 16)) and not normed.supports_norm((2, 8)) and not normed.supports_norm((16,))
    assert normed.supports_max_pool((1, 4, 4, 16), (3, 2, 1))
    for shape, window in (((1, 4, 4, 8), (3, 2, 1)), ((4, 4, 16), (3, 2, 1)), ((1, 4, 4, 16), (2, 2))):
        assert not normed.supports_max_pool(shape, window)
    assert sampling.supports(X) and not sampling.supports((1, 2**16, 2**15, 3)) and not sampling.supports((8, 8, 3))


CONV = {"paddings": np.int64([1]), "pool_strides": np.int64([0]), "scale": np.float32(1), "bfloat16": np.bool_(False)}
PRODUCT, RELU = {"bfloat16": np.bool_(False)}, {"activation": np.int64(1)}
BACK = {"stride": np.int64(1), "padding": np.int64([1, 1, 1, 1])}
PLAIN = BACK | {"activation": np.int64(0)}
PLAIN_POINT = PLAIN | {"padding": np.int64([0, 0, 0, 0])}
SUMS, SQUARE = PLAIN | {"sums": np.bool_(True)}, (1, 1, 16, 16)
SAMPLE = {"bits": np.int64(20), "nearest": np.bool_(False), "fill": np.int64(0)}
UPDATE = {name: np.float32(0.5) for name in ("beta1", "beta2", "epsilon", "decay")}
BATCH = (2, 16)
POOLED = (2, 4, 4, 16)
WRONG_CALLS = {  # what is wrong: shapes of results and of operands, attributes
    "conv_forward": {
        "output": (((2, 8, 8, 32),), (X, W, B), CONV),
        "bias": ((Y,), (X, W, (8,)), CONV),
        "code": ((Y, Y), (X, W, B), CONV),
        "layers": ((Y,), (X, W, B, (3, 3, 16, 16), B), CONV),
        "rank": (((2, 8, 16),), ((2, 8, 3), W, B), CONV),
        "multiple": (((2, 8, 8, 8),), (X, (3, 3, 3, 8), (8,)), CONV),
    },
    "conv_backward": {
        "kept": ((W, B), (X, W, (2, 7, 8, 16), Y), CONV),
        "gradient": (((3, 3, 3, 8), B), (X, W, Y, Y), CONV),
        "images": ((W, B, (2, 8, 8, 4)), (X, W, Y, Y), CONV),
    },
    "dense_forward": {"output": (((4, 32),), ((4, 32), (32, 16)), PRODUCT)},
    "dense_backward": {"gradient": (((4, 32), (16, 32)), ((4, 32), (32, 16), (4, 16)), PRODUCT)},
    "plain_forward": {
        "output": (((2, 8, 8, 32),), (X, W), PLAIN),
        "multiple": (((2, 8, 8, 8),), (X, (3, 3, 3, 8)), PLAIN),
        "square": ((Y,), (X, (3, 1, 3, 16)), PLAIN),
        "padding": (((2, 9, 8, 16),), (X, W), PLAIN | {"padding": np.int64([0, 3, 1, 1])}),
        "four paddings": ((Y,), (X, W), PLAIN | {"padding": np.int64([1, 1])}),
        "activation": ((Y,), (X, W), PLAIN | {"activation": np.int64(6)}),
        "offset": ((Y,), (X, W, (8,)), PLAIN),
        "tiles": ((Y,), (Y, (3, 3, 16, 16), B), PLAIN),
    },
    "plain_backward": {
        "weights": (((3, 3, 16, 32),), (Y, (3, 3, 16, 16), Y), BACK),
        "images": ((W, X), (X, W, Y), BACK),
    },
    "depthwise_forward": {
        "output": (((2, 7, 8, 16),), (Y, DEEP), PLAIN),
        "kernel": ((Y,), (Y, (1, 1, 1, 16)), PLAIN),
        "channels": (((2, 8, 8, 8),), ((2, 8, 8, 8), (3, 3, 1, 8)), PLAIN),
        "stride": (((2, 3, 3, 16),), (Y, DEEP), PLAIN | {"stride": np.int64(3)}),
        "padding": (((2, 9, 8, 16),), (Y, DEEP), PLAIN | {"padding": np.int64([0, 3, 1, 1])}),
        "added": ((Y,), (Y, DEEP, B, X), PLAIN),
    },
    "depthwise_backward": {"weights": (((3, 3, 16, 1), Y), (Y, DEEP, Y), BACK), "images": ((DEEP, X), (Y, DEEP, Y), BACK)},
    "linked_forward": {
        "output": (((2, 8, 8, 16), (32,), (32,)), (Y, POINT), PLAIN_POINT),
        "sums": (((2, 8, 8, 32), (32,), (16,)), (Y, POINT), PLAIN_POINT),
        "one sum": (((2, 8, 8, 32), (32,)), (Y, POINT), PLAIN_POINT),
        "no sums of a kernel for each channel": ((Y,), (Y, DEEP), PLAIN),
        "kernel": ((Y, B, B), (Y, (3, 3, 16, 16)), PLAIN),
        "norm": (((2, 8, 8, 32), (32,), (32,)), (Y, POINT, B, B), PLAIN_POINT),
        "wide norm": (((2, 8, 8, 32), (32,), (32,)), (Y, POINT, B, B, (32,)), PLAIN_POINT),
        "gate": (((2, 8, 8, 32), (32,), (32,)), (Y, POINT, B, B, B, (3, 16)), PLAIN_POINT),
        "gate of a kernel for each channel": ((Y, B, B), (Y, DEEP, B, B, B, BATCH), PLAIN),
        "activation": (((2, 8, 8, 32), (32,), (32,)), (Y, POINT, B, B, B), PLAIN_POINT | {"activation": np.int64(6)}),
        "activation without a norm": (((2, 8, 8, 32), (32,), (32,)), (Y, POINT), PLAIN_POINT | RELU),
    },
    "linked_backward": {
        "output": ((Y, DEEP), (Y, DEEP, Y, X, B, B), SUMS),
        "slope": ((Y, DEEP), (Y, DEEP, Y, Y, B, (32,)), SUMS),
        "no slope": ((Y, DEEP), (Y, DEEP, Y, Y, B), SUMS),
        "no sums of a kernel for each channel": ((Y, DEEP), (Y, DEEP, Y), SUMS | {"sums": np.bool_(False)}),
        "weights": ((Y, B), (Y, DEEP, Y, Y, B, B), SUMS),
        "norm": ((Y, DEEP, B), (Y, DEEP, Y, Y, B, B, B, B, B), SUMS),
        "gradients of the norm": ((Y, DEEP, B, (32,)), (Y, DEEP, Y, Y, B, B, B, B, B), SUMS),
        "gate": ((Y, DEEP, BATCH), (Y, DEEP, Y, Y, B, B, B, B, B, BATCH), SUMS),
        "gradient of the gate": ((Y, SQUARE, B), (Y, SQUARE, Y, Y, B, B, B, B, B, BATCH), SUMS | PLAIN_POINT),
    },
    "last_norm_forward": {
        "result": ((X,), (Y, B, B, B), RELU),
        "bias": ((Y,), (Y, B, B, (32,)), RELU),
        "added": ((Y,), (Y, B, B, B, X), RELU),
        "activation": ((Y,), (Y, B, B, B), {"activation": np.int64(-1)}),
        "channels": (((2, 8),), ((2, 8), *((8,),) * 3), RELU),
    },
    "last_norm_backward": {
        "gradient": ((Y, B, B), (Y, X, B, B, B), RELU),
        "scale": ((Y, B, (32,)), (Y, Y, B, B, B), RELU),
        "gate alone": ((Y, B, B), (Y, Y, B, B, B, BATCH), RELU),
        "gate": ((Y, B, B), (Y, Y, B, B, B, BATCH, (3, 16)), RELU),
    },
    "squeeze": {"means": (((3, 16),), (Y, B, B, B), RELU), "mean": ((BATCH,), (Y, (32,), B, B), RELU)},
    "norm_sums": {"sums": ((B, (8,)), (BATCH,), {}), "channels": (((8,), (8,)), ((2, 8),), {})},
    "norm_forward": {
        "bias": ((BATCH,), (BATCH, B, B, (8,)), RELU),
        "activation": ((BATCH,), (BATCH, B, B, B), {"activation": np.int64(3)}),
        "added": ((BATCH,), (BATCH, B, B, B, (3, 16)), RELU),
    },
    "norm_gradient_sums": {"input": ((B, B), (BATCH, BATCH, (3, 16), B), RELU)},
    "norm_backward": {"gradient": ((BATCH, (1, 16)), (BATCH, BATCH, BATCH, B, B, B, B), RELU)},
    "max_pool_forward": {
        "output": ((POOLED,), ((2, 9, 8, 16),), {}),
        "code": ((POOLED, POOLED), (Y,), {}),
    },
    "max_pool_backward": {"code": ((Y,), (array(2, 4, 5, 16, dtype="uint8"), POOLED), {})},
    "sample": {
        "no bits": ((X,), (X, FACTORS), SAMPLE | {"bits": np.int64(0)}),
        "bits": ((X,), (X, FACTORS), SAMPLE | {"bits": np.int64(28)}),
        "fill": ((X,), (X, FACTORS), SAMPLE | {"fill": np.int64(4)}),
        "factors": ((X,), (X, array(3, 2, 3, dtype="int32")), SAMPLE),
        "output": (((2, 8, 8, 4),), (X, FACTORS), SAMPLE),
        "rank": ((X,), ((2, 8, 8), FACTORS), SAMPLE),
    },
    "orthogonal": {
        "wide": (((16, 32),), ((16, 32),), {}),
        "columns": (((40, 24),), ((40, 24),), {}),
        "rank": (((2, 32, 16),), ((2, 32, 16),), {}),
        "result": (((48, 16),), ((32, 16),), {}),
    },
    "adam": {
        "factors": (((9,),) * 3, ((3,), *((9,),) * 4), UPDATE),
        "size": (((9,),) * 3, ((4,), (8,), *((9,),) * 3), UPDATE),
        "in place": (((9,),) * 3, ((4,), *((9,),) * 4), UPDATE),
    },
}


@pytest.mark.parametrize(
    ("handler", "wrong"), [(handler, wrong) for handler, entries in WRONG_CALLS.items() for wrong in entries]
)
def test_the_library_checks_shapes_itself(handler, wrong):
    results, operands, attributes = WRONG_CALLS[handler][wrong]
    call = jax.ffi.ffi_call(f"cnnjax_{library.instruction_set()}_{handler}", tuple(array(*shape) for shape in results))
    arrays = [jnp.zeros(given) if isinstance(given, tuple) else jnp.zeros(given.shape, given.dtype) for given in operands]
    with pytest.raises(jax.errors.JaxRuntimeError, match="cnnjax kernels: "):
        jax.block_until_ready(call(*arrays, **attributes))


def test_no_handler_of_the_library_is_left_out():
    assert WRONG_CALLS.keys() == library.HANDLERS.keys()
