"""The kernels, a row each: the operation of `Ops`, shapes, draws and tolerances. `test_contract.py` checks every row alike."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from kernel_rows import Case, Kernel, draw_bytes, draw_matrix, draw_moments, draw_samples, draw_shifted

from cnnjax.kernels import ACTIVATIONS, Block, Link, Ops, convs
from cnnjax.kernels.ops import sides


def block(ops, x, w, b, *, padding, pool_stride):
    return (ops.conv_blocks(x, [Block(w, b, padding, pool_stride)], dtype=x.dtype),)


def dense(ops, x, w, b):
    return (ops.dense(x, w, b, dtype=x.dtype),)


def conv(ops, x, w, *, stride):
    if type(ops) is Ops:  # of images no larger than the kernel it takes square ones only
        edges = ((w.shape[0] // 2,) * 2,) * 2
        return (lax.conv_general_dilated(x, w, (stride,) * 2, edges, dimension_numbers=("NHWC", "HWIO", "NHWC")),)
    return (ops.conv(x, w, stride=stride, dtype=x.dtype),)


def depthwise(ops, x, w, *, stride, padding):
    if type(ops) is not Ops:
        return (ops.depthwise(x, w, stride=stride, padding=padding, dtype=x.dtype),)
    # A NaN stays in its channel, as in no convolution of XLA for CPUs.
    x = jnp.pad(x, ((0, 0), *sides(padding), (0, 0)))
    rows, columns = (np.arange(0, size - len(w) + 1, stride)[:, None] + np.arange(len(w)) for size in x.shape[1:3])
    return (jnp.einsum("npiqjc,ijc->npqc", x[:, rows][:, :, :, columns], w[:, :, 0]),)


def finished(ops, x, w, offset, *more, stride, padding, activation):
    convolve = depthwise if w.shape[2] == 1 else conv
    if type(ops) is not Ops:
        return (convs.finished(x, w, offset, *more, stride=stride, padding=sides(padding), activation=activation),)
    (y,) = convolve(ops, x, w, stride=stride, **({} if convolve is conv else {"padding": padding}))
    return (ACTIVATIONS[activation](sum(more, y + offset.reshape(1, 1, 1, -1))),)


def norm(ops, x, scale, bias, *more, activation):
    return ops.batch_norm(x, scale, bias, *more, epsilon=1e-5, activation=activation, dtype=x.dtype, out_dtype=x.dtype)


def chain(ops, x, *arrays, convs, activation, adds=False, squeezed=0):
    """Convolutions of (kernel, stride, padding), each with its norm; the last is linear where something is added."""
    links, last = [], "none" if adds else activation
    for i, (_, stride, padding) in enumerate(convs):
        own = arrays[3 * i : 3 * i + 3]
        links.append(Link(*own, stride, sides(padding), 1e-3, last if i + 1 == len(convs) else activation))
    rest = list(arrays[3 * len(convs) :])
    more = rest.pop(0) if adds else None
    gate = (lambda means: jax.nn.sigmoid(jax.nn.relu(means @ rest[0]) @ rest[1])) if squeezed else None
    y, found = ops.chain(x, links, more, gate, dtype=x.dtype, out_dtype=x.dtype, conv_dtype=x.dtype)
    return y, *itertools.chain(*found)


def mlp(ops, x, w1, b1, w2, b2, *, activation):
    return (ops.mlp(x, w1, b1, w2, b2, dtype=x.dtype, activation=activation),)


def pool(ops, x):
    return (ops.max_pool(x, 3, 2, 1),)


def sample(ops, images, factors, **options):
    return (ops.sample(images, factors, **options),)


def orthogonal(ops, x):
    return (ops.orthogonal(x),)


def adam(ops, factors, g, p, m, v, *, beta1, beta2, epsilon, decay):
    """The third update; by optax where `ops` leaves it to that."""
    found = ops.adam_update(factors, g, p, m, v, beta1=beta1, beta2=beta2, epsilon=epsilon, decay=decay)
    if found is not None:
        return found
    before = optax.ScaleByAdamState(jnp.int32(2), m, v)
    updates, after = optax.scale_by_adam(beta1, beta2, epsilon).update(factors[3] * g, before)
    return p - factors[0] * (updates + decay * p), after.mu, after.nu


def blocks_and_dense(ops, images, w1, b1, w2, b2, w3, b3):
    """A small ConvNet on bytes."""
    blocks = [Block(w1, b1, 1, 2), Block(w2, b2, 1, 0)]
    x = ops.conv_blocks(images, blocks, dtype=w1.dtype, scale=1 / 255, input_grad=False)
    return (ops.dense(x.reshape(x.shape[0], -1), w3, b3, dtype=w1.dtype),)


def residual(ops, x, w1, s1, b1, w2, s2, b2, w3, s3, b3):
    """The stem of a small ResNet and a block."""
    x, mean, _ = norm(ops, *conv(ops, x, w1, stride=2), s1, b1, activation="relu")
    x, *_ = norm(ops, *conv(ops, *pool(ops, x), w2, stride=2), s2, b2, activation="relu")
    x, *_ = norm(ops, *conv(ops, x, w3, stride=1), s3, b3, x, activation="relu")
    return x, mean


def weights(kernel: int, ci: int, co: int) -> tuple[int, ...]:
    return kernel, kernel, ci, co


def conv_case(x: tuple[int, ...], co: int, kernel: int, stride: int) -> Case:
    return Case((x, weights(kernel, x[3], co)), {"stride": stride})


def depthwise_case(x: tuple[int, ...], kernel: int, stride: int, padding) -> Case:
    return Case((x, weights(kernel, 1, x[3])), {"stride": stride, "padding": padding})


def finished_case(x: tuple[int, ...], w: tuple[int, ...], stride: int, activation: str, *, adds: bool) -> Case:
    y = (x[0], *(-(-size // stride) for size in x[1:3]), w[3])
    return Case((x, w, w[3:], *((y,) if adds else ())),
                {"stride": stride, "padding": w[0] // 2, "activation": activation})  # fmt: skip


def block_case(x: tuple[int, ...], co: int, padding: int, pool_stride: int) -> Case:
    return Case((x, weights(3, x[3], co), (co,)), {"padding": padding, "pool_stride": pool_stride})


def norm_case(x: tuple[int, ...], activation: str, adds: bool) -> Case:
    return Case((x, x[-1:], x[-1:], *((x,) if adds else ())), {"activation": activation})


def chain_case(x: tuple[int, ...], *convs, activation: str, adds: bool = False, squeezed: int = 0) -> Case:
    """Convolutions of (kernel, stride, padding, outputs); a kernel of more than one pixel is for one channel."""
    shapes, size, channels = [x], x[1:3], x[3]
    for kernel, stride, padding, outputs in convs:
        shapes += [weights(kernel, 1 if kernel > 1 else channels, outputs), (outputs,), (outputs,)]
        size = [(pixels + sum(side) - kernel) // stride + 1 for pixels, side in zip(size, sides(padding), strict=True)]
        before, channels = channels, outputs
    shapes += [(x[0], *size, channels)] if adds else []
    shapes += [(before, squeezed), (squeezed, before)] if squeezed else []
    return Case(tuple(shapes), {"convs": tuple(conv[:3] for conv in convs), "activation": activation, "adds": adds,
                                "squeezed": squeezed})  # fmt: skip


def mlp_case(x: tuple[int, ...], wide: int, units: int, activation: str) -> Case:
    return Case((x, (x[-1], wide), (wide,), (wide, units), (units,)), {"activation": activation})


def dense_case(m: int, k: int, n: int) -> Case:
    return Case(((m, k), (k, n), (n,)), {})


def sample_case(shape: tuple[int, ...], interpolation: str, fill: str) -> Case:
    return Case((shape, (shape[0], 2, 3)), {"fraction": 12, "interpolation": interpolation, "fill": fill})


def adam_case(*shape: int, decay: float = 0.0) -> Case:
    return Case(((4,), *(shape,) * 4), {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7, "decay": decay})


NORM = {"handlers": ("norm_sums", "norm_forward", "norm_gradient_sums", "norm_backward"), "draw": draw_shifted, "is_exact": False,
        "tolerance": 2e-5, "is_alone": False}  # fmt: skip
CHAIN = {"draw": draw_shifted, "is_exact": False, "tolerance": 2e-5, "is_alone": False}
CONV = ("plain_forward", "plain_backward")
BLOCK = ("conv_forward", "conv_backward")

KERNELS = {
    "block": Kernel(
        block, BLOCK, (block_case((2, 6, 7, 16), 16, 1, 0), block_case((2, 7, 6, 3), 32, 0, 2)),
        many=block_case((16, 40, 13, 3), 16, 1, 2), other=block_case((2, 6, 7, 16), 24, 1, 2), grads=(0, 1, 2), spread=16,
    ),
    "dense": Kernel(
        dense, ("dense_forward", "dense_backward"),
        (*(dense_case(*case) for case in ((1, 16, 80), (7, 48, 16), (13, 1040, 96), (64, 2064, 64), (33, 512, 128))),),
        many=dense_case(16, 3840, 64), other=dense_case(5, 1032, 16), grads=(0, 1, 2),
    ),
    "conv": Kernel(  # in tiles
        conv, CONV,
        (conv_case((2, 2, 2, 64), 64, 3, 1),  # fewer tiles than channels: weights are laid out where they are used
         conv_case((3, 5, 7, 16), 32, 3, 1),
         conv_case((1, 4, 1, 48), 16, 3, 1),
         conv_case((70, 6, 5, 32), 16, 3, 1),
         conv_case((3, 38, 41, 96), 32, 3, 1),  # several chunks of what the gradient of the weights is summed over
         conv_case((2, 6, 6, 5), 16, 3, 1)),  # channels that fill no vector, and no gradient of the images but XLA's
        many=conv_case((16, 10, 7, 16), 32, 3, 1), other=conv_case((2, 6, 7, 16), 24, 3, 1), spread=8,
    ),
    "strided conv": Kernel(
        conv, CONV,
        (conv_case((3, 5, 8, 16), 48, 3, 2),
         conv_case((9, 4, 4, 32), 16, 3, 2),
         conv_case((1, 30, 31, 64), 32, 3, 2),
         conv_case((2, 9, 12, 3), 16, 7, 2),
         conv_case((2, 3, 4, 16), 16, 7, 2),  # an image smaller than the kernel
         conv_case((2, 7, 6, 16), 16, 5, 3),
         conv_case((5, 6, 3, 32), 16, 1, 1),
         conv_case((2, 7, 6, 16), 64, 1, 2)),
        many=conv_case((16, 20, 26, 16), 16, 7, 2), other=conv_case((2, 7, 6, 16), 8, 1, 2), spread=2,
    ),
    "product": Kernel(  # of one pixel; channels fill no block
        conv, CONV, (conv_case((3, 5, 7, 24), 40, 1, 1), conv_case((1, 1, 3, 16), 20, 1, 1), conv_case((2, 31, 30, 52), 16, 1, 1)),
        many=conv_case((16, 20, 13, 24), 40, 1, 1), other=conv_case((2, 7, 6, 18), 24, 1, 1),
    ),
    "depthwise": Kernel(
        depthwise, ("depthwise_forward", "depthwise_backward"),
        (depthwise_case((2, 5, 6, 16), 3, 1, 1),
         depthwise_case((3, 9, 26, 43), 3, 2, 1),
         depthwise_case((1, 8, 10, 24), 3, 2, ((0, 1), (0, 1))),  # as in TensorFlow
         depthwise_case((2, 4, 3, 200), 5, 1, 2),  # smaller than the kernel, and several groups of channels
         depthwise_case((1, 12, 21, 37), 7, 1, 3),
         depthwise_case((2, 9, 8, 32), 7, 2, ((6, 0), (2, 5))),
         depthwise_case((2, 70, 66, 40), 3, 1, 0)),  # several bands of rows
        many=depthwise_case((16, 20, 13, 40), 5, 2, 2), other=depthwise_case((2, 6, 7, 8), 3, 1, 1), spread=49,
    ),
    "finished": Kernel(
        finished, ("depthwise_forward",),
        (finished_case((2, 7, 6, 3), weights(3, 3, 32), 2, "relu6", adds=False),
         finished_case((2, 5, 6, 24), weights(1, 24, 40), 1, "none", adds=False),
         finished_case((2, 5, 6, 24), weights(1, 24, 40), 1, "gelu", adds=False),
         finished_case((2, 5, 6, 43), weights(5, 1, 43), 2, "silu", adds=False)),
        many=finished_case((16, 20, 13, 24), weights(3, 1, 24), 1, "hard_swish", adds=False), grads=(), is_exact=False, spread=49,
    ),
    "finished sum": Kernel(
        finished, ("plain_forward",),
        (finished_case((2, 7, 6, 16), weights(3, 16, 32), 2, "none", adds=True),
         finished_case((2, 5, 6, 24), weights(1, 24, 40), 1, "hard_swish", adds=True),
         finished_case((2, 5, 6, 24), weights(1, 24, 40), 1, "silu", adds=True),
         finished_case((2, 5, 6, 43), weights(7, 1, 43), 1, "relu6", adds=True)),
        many=finished_case((16, 20, 13, 24), weights(1, 24, 40), 1, "relu", adds=True), batch=(0, 3), grads=(),
        is_exact=False, spread=49,
    ),
    "norm": Kernel(
        norm, cases=tuple(norm_case(x, activation, False) for x in ((9, 1, 1, 16), (3, 5, 7, 43), (70, 3, 3, 24), (5, 160))
                          for activation in ("none", "relu6")),
        many=norm_case((16, 10, 7, 32), "relu6", False), other=norm_case((5, 8), "relu", False), grads=(0, 1, 2), **NORM,
    ),
    "norm of a sum": Kernel(
        norm, cases=tuple(norm_case(x, activation, True) for x in ((9, 1, 1, 16), (3, 5, 7, 43), (70, 3, 3, 24), (5, 160))
                          for activation in ("none", "relu")),
        many=norm_case((16, 10, 7, 32), "relu", True), other=norm_case((5, 8), "relu", True), batch=(0, 3),
        grads=(0, 1, 2, 3), **NORM,
    ),
    "chain": Kernel(
        chain, ("linked_forward", "linked_backward", "last_norm_forward", "last_norm_backward"),
        (chain_case((2, 5, 7, 24), (1, 1, 0, 40), (3, 1, 1, 40), (1, 1, 0, 24), activation="relu6"),
         chain_case((3, 9, 8, 16), (1, 1, 0, 52), (5, 2, ((1, 2), (1, 2)), 52), (1, 1, 0, 20), activation="silu"),
         chain_case((2, 8, 5, 100), (7, 1, 3, 100), (1, 1, 0, 16), (3, 1, 1, 16), activation="hard_swish"),
         chain_case((2, 60, 58, 43), (3, 1, 1, 43), (3, 2, 1, 43), (5, 1, 2, 43), activation="gelu"),  # several bands of rows
         chain_case((2, 31, 30, 20), (1, 1, 0, 16), (1, 1, 0, 36), (1, 1, 0, 16), activation="relu"),
         chain_case((3, 7, 5, 16), (7, 2, ((6, 0), (2, 5)), 16), (1, 1, 0, 16), (5, 2, 2, 16), activation="relu")),
        many=chain_case((16, 20, 13, 24), (1, 1, 0, 40), (5, 2, 2, 40), (1, 1, 0, 32), activation="relu6"),
        other=chain_case((2, 6, 7, 8), *((3, 1, 1, 8),) * 3, activation="relu"), grads=tuple(range(10)), **CHAIN,
    ),
    "chain with a sum": Kernel(
        chain, ("linked_forward", "last_norm_forward"),
        (chain_case((2, 5, 7, 24), (1, 1, 0, 24), activation="relu", adds=True),),
        many=chain_case((16, 20, 13, 24), (1, 1, 0, 24), activation="relu", adds=True), batch=(0, 4), grads=tuple(range(5)), **CHAIN,
    ),
    "gated chain": Kernel(
        chain, ("linked_backward", "squeeze", "last_norm_backward"),
        (chain_case((3, 7, 6, 20), (3, 2, 1, 20), (1, 1, 0, 24), activation="hard_swish", squeezed=4),
         chain_case((9, 3, 3, 36), (3, 1, 1, 36), (1, 1, 0, 16), activation="relu6", squeezed=4),
         chain_case((1, 40, 41, 16), (3, 1, 1, 16), (1, 1, 0, 16), activation="silu", squeezed=4)),
        many=chain_case((16, 20, 13, 24), (3, 1, 1, 24), (1, 1, 0, 16), activation="silu", squeezed=4), grads=tuple(range(9)), **CHAIN,
    ),
    "mlp": Kernel(
        mlp, ("linked_forward", "linked_backward"),
        (mlp_case((2, 5, 7, 16), 64, 20, "gelu"), mlp_case((3, 9, 52), 100, 16, "relu"), mlp_case((1, 40, 31, 24), 36, 16, "silu")),
        many=mlp_case((16, 21, 24), 96, 40, "gelu"), other=mlp_case((2, 6, 8), 24, 8, "gelu"), grads=(0, 1, 2, 3, 4), is_exact=False,
    ),
    "pool": Kernel(
        pool, ("max_pool_forward", "max_pool_backward"),
        tuple(Case((x,), {}) for x in ((2, 1, 1, 16), (1, 1, 6, 48), (3, 5, 4, 16), (2, 8, 9, 32))),
        many=Case(((16, 20, 13, 16),), {}), other=Case(((2, 4, 4, 8),), {}), grads=(0,),
    ),
    "sample": Kernel(
        sample, ("sample",), tuple(sample_case((2, 9, 8, 3), kind, fill) for kind, fill in
                                   (("bilinear", "reflect"), ("nearest", "wrap"), ("bilinear", "constant"))),
        many=sample_case((16, 20, 13, 3), "bilinear", "reflect"), draw=draw_samples, batch=(0, 1), grads=(0,),
        is_exact=False, tolerance=4e-7,
    ),
    "orthogonal": Kernel(
        orthogonal, ("orthogonal",), tuple(Case((shape,), {}) for shape in ((16, 16), (16, 75), (51, 48), (300, 64), (96, 256))),
        many=Case(((1152, 128),), {}), other=Case(((49, 24),), {}), draw=draw_matrix, batch=(), grads=(), is_exact=False, tolerance=5e-4,
    ),
    "adam": Kernel(
        adam, ("adam",), (adam_case(256, 257), adam_case(2**16 + 5, decay=0.1)), many=adam_case(400, 401), other=adam_case(8, 9),
        draw=draw_moments, batch=(), grads=(), is_exact=False,
    ),
}  # fmt: skip
COMPOSITIONS = {
    "blocks and dense": Kernel(
        blocks_and_dense, (*BLOCK, "dense_forward"), (), draw=draw_bytes, grads=(1, 2, 3, 4, 5, 6), sharded=(5,),
        many=Case(((16, 40, 13, 3), weights(3, 3, 16), (16,), weights(3, 16, 32), (32,), (20 * 6 * 32, 64), (64,)), {}),
    ),
    "residual": Kernel(
        residual, (*CONV, "norm_forward"), (), grads=tuple(range(1, 10)), is_alone=False,
        many=Case(((16, 40, 26, 3), weights(7, 3, 16), (16,), (16,), weights(3, 16, 32), (32,), (32,), weights(3, 32, 32),
                   (32,), (32,)), {}),
    ),
}  # fmt: skip
