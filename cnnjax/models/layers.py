"""Layers of networks, and the class of all networks: a list of named layers, applied in turn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels import normed

WIDE = 1024  # inputs from which on a dense layer is left to the kernels


@jax.custom_vjp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Elementwise maximum whose whole gradient goes to one side; at a tie to the first."""
    return jnp.maximum(a, b)


_larger.defvjp(
    lambda a, b: (jnp.maximum(a, b), a >= b),
    lambda first, g: (jnp.where(first, g, 0), jnp.where(first, 0, g)),
)


def max_pool(images: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Max-pool: [b, h, w, c] -> [b, (h + 2 padding - window) // stride + 1, the same of w, c].

    A maximum of shifted slices: on a CPU the whole training step takes a half to a third of the time that it takes
    with `lax.reduce_window`, whose gradient is a scatter.

    Args:
        images: floating point.
        window: pixels, height and width.
        stride: pixels.
        padding: pixels of the lowest value on all four sides.
    """
    if padding:
        edge = (padding, padding, 0)
        images = lax.pad(images, jnp.array(-jnp.inf, images.dtype), ((0, 0, 0), edge, edge, (0, 0, 0)))
    for axis in (1, 2):
        last = (images.shape[axis] - window) // stride * stride
        parts = [lax.slice_in_dim(images, i, i + last + 1, stride, axis) for i in range(window)]
        images = functools.reduce(_larger, parts)
    return images


class Dropout(nnx.Dropout):
    """`nnx.Dropout` with cheaper random numbers: a CPU drops some of a million in 0.3 ms instead of 2.

    Each number's bits are a hash of its place in the batch and of the key, so batches that are divided among devices need
    nothing of each other.
    """

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Zero with probability `rate`, else x / (1 - rate); as it is where `deterministic`."""
        if self.deterministic or not self.rate:
            return x
        keys = jax.random.bits(rngs.dropout(), (2,))
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis in range(x.ndim):
            place = place * x.shape[axis] + lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        bits = _mixed(_mixed(place + keys[0]) ^ keys[1])
        return jnp.where(bits < jnp.uint32(round(self.rate * 2**32)), 0, x / (1 - self.rate))


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of uint32 after which every bit depends on all: lowbias32 of C. Wellons' hash-prospector."""
    x = (x ^ x >> 16) * jnp.uint32(0x21F0AAAD)
    x = (x ^ x >> 15) * jnp.uint32(0xD35A2D97)
    return x ^ x >> 15


class Fitted(nnx.Variable):
    """Numbers computed from the training images; they are not trained."""


class Whiten(nnx.Module):
    """ZCA whitening: [b, size, size, 3] in [0, 1] -> the same shape; the identity until it is fitted."""

    def __init__(self, size: int, dtype):
        self.mean = Fitted(jnp.zeros((size, size, 3), jnp.float32))
        self.matrix = Fitted(jnp.eye(size * size * 3, dtype=jnp.float32))
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        x = (images - self.mean[...][None]).reshape(images.shape[0], -1)
        return jnp.dot(x, self.matrix[...], precision="highest").reshape(images.shape).astype(self.dtype)


class Norm(nnx.BatchNorm):
    """Batch normalisation over the last dimension, with what mostly follows it.

    Args:
        channels: of the input.
        dtype: of the result. Statistics are float32; so is what they are computed with, where `exact`.
        exact: compute in float32 whatever the type: with bfloat16 the running averages would be rounded, too.
        options: of `nnx.BatchNorm`.
    """

    native: bool = False  # use `cnnjax.kernels` where they fit

    def __init__(self, channels: int, *, dtype, exact: bool = False, **options):
        super().__init__(channels, momentum=0.9, dtype=jnp.float32 if exact else dtype, **options)
        self.out_dtype = dtype

    def __call__(self, x: jax.Array, *, more: jax.Array | None = None, relu: bool = False) -> jax.Array:
        """The norm of x, plus `more`, through ReLU."""
        native = self.native and not self.use_running_average and x.dtype == self.dtype == self.out_dtype == jnp.float32
        if native and normed.supports_norm(x.shape):
            y, *found = normed.batch_norm(x, self.scale[...], self.bias[...], more, epsilon=self.epsilon, relu=relu)
            for kept, new in zip((self.mean, self.var), found, strict=True):
                kept[...] = lax.stop_gradient(self.momentum * kept[...] + (1 - self.momentum) * new)
            return y
        y = super().__call__(x).astype(self.out_dtype)
        y = y if more is None else y + more
        return nnx.relu(y) if relu else y


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the table. `module` is the attribute that holds its parameters; "" where there are none."""

    name: str
    kind: str  # whiten, conv, norm, pool, block, dropout, average, flatten, dense
    module: str = ""
    relu: bool = False
    window: tuple[int, ...] = ()  # of a pool: `max_pool`'s window, stride and padding


class Layered(nnx.Module):
    """A network. A subclass sets `dtype`, of the computation, and `layers`."""

    dtype: jnp.dtype
    layers: tuple[Layer, ...]
    native: bool = False  # use `cnnjax.kernels` where they fit

    def use_kernels(self, native: bool) -> None:
        """Lets this network, and all that it consists of, use the CPU's own kernels where they fit."""
        for _, module in nnx.iter_modules(self):
            if hasattr(module, "native"):
                module.native = native

    def apply(self, layer: Layer, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """One layer."""
        module = getattr(self, layer.module) if layer.module else None
        if layer.kind == "pool":
            fits = self.native and x.dtype == jnp.float32 and normed.supports_max_pool(x.shape, layer.window)
            x = normed.max_pool(x) if fits else max_pool(x, *layer.window)
        elif layer.kind == "average":
            x = x.mean((1, 2))
        elif layer.kind == "flatten":
            x = x.reshape(x.shape[0], -1)
        elif layer.kind == "dropout":
            x = module(x, rngs=rngs)
        elif layer.kind == "norm":
            return module(x, relu=layer.relu)
        else:
            x = module(x).astype(self.dtype)
        return nnx.relu(x) if layer.relu else x

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [b, size, size, 3] in [0, 255], uint8 or float32 -> float32 logits [b, outputs].

        `rngs` feeds dropout in training and comes with each call.
        """
        layers = list(self.layers)
        if self.native and self._fits(layers[0], images.shape):
            x = self._blocks(layers, images, first=True)
        else:
            # Scaled, and whitened, in float32, then rounded once to the computation's type.
            x = images.astype(jnp.float32) / 255
            if layers[0].kind != "whiten":
                x = x.astype(self.dtype)
        while layers:
            if self.native and self._fits(layers[0], x.shape):
                x = self._blocks(layers, x) if layers[0].kind == "conv" else self._dense(layers.pop(0), x)
            else:
                x = self.apply(layers.pop(0), x, rngs)
        return x.astype(jnp.float32)

    # What the CPU's own kernels take over; see docs/kernels.md.

    def _fits(self, layer: Layer, shape: tuple[int, ...]) -> bool:
        module = getattr(self, layer.module) if layer.module else None
        if layer.kind == "dense":
            kernel = module.kernel.shape
            return kernel[0] >= WIDE and kernels.supports_dense(shape, kernel)
        if layer.kind != "conv" or not layer.relu or module.bias is None or module.strides not in (1, (1, 1)):
            return False
        return kernels.supports_block(shape, module.kernel.shape, module.padding == "SAME", 0)

    def _blocks(self, layers: list[Layer], x: jax.Array, *, first: bool = False) -> jax.Array:
        """Convolutions, each with the pool that follows; takes them off the front of `layers`."""
        shape, blocks = x.shape, []
        while layers and self._fits(layers[0], shape):
            conv, stride = getattr(self, layers.pop(0).module), 0
            kernel, padding = conv.kernel[...], int(conv.padding == "SAME")
            pool = layers[0].window if layers and layers[0].kind == "pool" else ()
            if len(pool) == 2 and pool[0] == 2 and kernels.supports_block(shape, kernel.shape, padding, pool[1]):
                stride = layers.pop(0).window[1]
            blocks.append(kernels.Block(kernel, conv.bias[...], padding, stride))
            shape = kernels.block_output(shape, kernel.shape, padding, stride)
        if x.dtype != jnp.uint8:
            x = x.astype(jnp.float32)
        half = self.dtype == jnp.bfloat16
        return kernels.conv_blocks(x, blocks, input_grad=not first, scale=1 / 255 if first else 1.0, bfloat16=half,
                                   rounded=half)  # fmt: skip

    def _dense(self, layer: Layer, x: jax.Array) -> jax.Array:
        dense, half = getattr(self, layer.module), self.dtype == jnp.bfloat16
        if not kernels.rounds(half, kernels.instruction_set()):
            x = x.astype(jnp.float32)
        x = kernels.dense(x, dense.kernel[...], bfloat16=half)
        x = x + dense.bias[...][None]
        return nnx.relu(x) if layer.relu else x
