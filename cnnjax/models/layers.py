"""Layers of the networks, and a network as a list of named layers that are applied in turn."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import PLAIN, Block, Gate, Link, Ops, gated, sides
from cnnjax.models.references import Expected, References


class Dropout(nnx.Dropout):
    """`nnx.Dropout` with cheaper random numbers: a CPU drops some of a million in 0.3 ms instead of 2.

    Each number's bits are a hash of its place in the batch and of the key, so batches that are divided among devices need
    nothing of each other.
    """

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns zero with probability `rate`, else x / (1 - rate); x itself where `deterministic`."""
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
    """Values that are computed from the training images and not trained."""


class Whiten(nnx.Module):
    """ZCA whitening: [b, height, width, 3] in [0, 1] -> the same shape; the identity until it is fitted."""

    def __init__(self, shape: tuple[int, int], dtype):
        self.mean = Fitted(jnp.zeros((*shape, 3), jnp.float32))
        self.matrix = Fitted(jnp.eye(math.prod(shape) * 3, dtype=jnp.float32))
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        x = (images - self.mean[...][None]).reshape(images.shape[0], -1)
        return jnp.dot(x, self.matrix[...], precision="highest").reshape(images.shape).astype(self.dtype)


class Norm(nnx.BatchNorm):
    """Batch normalisation over the last dimension, and the sum and activation that mostly follow it.

    Args:
        channels: of the input.
        dtype: of the result. Statistics are float32; so is the computation where `exact`.
        ops: what computes it.
        exact: compute in float32 whatever the type: with bfloat16 the running averages would be rounded, too.
        activation: one of `ACTIVATIONS`, after each call.
        options: of `nnx.BatchNorm`.
    """

    def __init__(self, channels: int, *, dtype, ops: Ops = PLAIN, exact: bool = False, activation: str = "none", **options):
        super().__init__(channels, momentum=0.9, dtype=jnp.float32 if exact else dtype, **options)
        self.out_dtype, self.ops, self.activation = dtype, ops, activation

    def __call__(self, x: jax.Array, *, more: jax.Array | None = None, relu: bool = False) -> jax.Array:
        """Normalises x, adds `more`, and applies its activation, or ReLU; updates the running averages in training."""
        scale, bias, options = self.scale[...], self.bias[...], self._options(relu)
        if self.use_running_average:
            return self.ops.normalize(x, *self._running(), scale, bias, more, **options)
        y, *found = self.ops.batch_norm(x, scale, bias, more, **options)
        self._update(*found)
        return y

    def after(self, conv: nnx.Conv, x: jax.Array, *, more: jax.Array | None = None, relu: bool = False) -> jax.Array:
        """Normalises a convolution of x; with running averages a kernel computes both in one pass.

        Args:
            conv: without a bias; `conv.zeros` gives the padding for images of a height and width.
            x: [b, h, w, channels of conv].
            more, relu: as in `__call__`.
        """
        if not self.use_running_average:
            return chained([(conv, self)], x, more=more, relu=relu)
        return self.ops.conv_normalize(
            x, conv.kernel[...], *self._running(), self.scale[...], self.bias[...], more, stride=conv.strides,
            padding=conv.zeros(x.shape[1:3]), conv_dtype=conv.dtype, **self._options(relu)
        )  # fmt: skip

    def link(self, conv: nnx.Conv, size: tuple[int, int], relu: bool = False) -> Link:
        """Returns a convolution of images of a height and width, and this norm behind it, as `Ops.chain` takes them."""
        options = self._options(relu)
        return Link(conv.kernel[...], self.scale[...], self.bias[...], conv.strides, sides(conv.zeros(size)), options["epsilon"],
                    options["activation"])  # fmt: skip

    def _update(self, mean: jax.Array, var: jax.Array) -> None:
        for kept, new in ((self.mean, mean), (self.var, var)):
            kept[...] = lax.stop_gradient(self.momentum * kept[...] + (1 - self.momentum) * new)

    def _options(self, relu: bool) -> dict:
        activation = "relu" if relu else self.activation
        return {"epsilon": self.epsilon, "activation": activation, "dtype": self.dtype, "out_dtype": self.out_dtype}

    def _running(self) -> tuple[jax.Array, jax.Array]:
        return self.mean[...].astype(self.dtype), self.var[...].astype(self.dtype)


def chained(pairs: Sequence[tuple[nnx.Conv, Norm]], x: jax.Array, *, more: jax.Array | None = None, gate: Gate | None = None,
            relu: bool = False) -> jax.Array:  # fmt: skip
    """Applies convolutions, each with its norm, as `Norm.after` does; in training a kernel applies a norm as the next one reads.

    Args:
        pairs: of one type and `Ops`.
        x: [b, h, w, channels of the first].
        more, relu: of the last norm.
        gate: makes factors [b, channels] of the means of each image, by which the input of the last convolution is multiplied.
    """
    last, norm = len(pairs), pairs[0][1]
    if any(norm.use_running_average for _, norm in pairs):
        for i, (conv, norm) in enumerate(pairs, 1):
            if gate and i == last:
                x = gated(x, gate)
            x = norm.after(conv, x, more=more if i == last else None, relu=relu and i == last)
        return x
    links, size = [], x.shape[1:3]
    for i, (conv, own) in enumerate(pairs, 1):
        links.append(own.link(conv, size, relu and i == last))
        size = links[-1].output(size)
    y, found = norm.ops.chain(x, links, more, gate, dtype=norm.dtype, out_dtype=norm.out_dtype, conv_dtype=pairs[0][0].dtype)
    for (_, own), statistics in zip(pairs, found, strict=True):
        own._update(*statistics)
    return y


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the table. `module` is the attribute that holds its parameters; "" where there are none."""

    name: str
    kind: str  # whiten, conv, norm, embed, pool, block, dropout, average, token, flatten, dense
    module: str = ""
    relu: bool = False
    window: tuple[int, ...] = ()  # of a pool: window, stride and padding of `Ops.max_pool`


NO_MAPS = ("whiten", "pool", "dropout", "average", "flatten", "dense")  # kinds of layers that no convolution is part of


class Layered(nnx.Module):
    """A network as a list of named layers. The same list gives the table and the picture of `describe`.

    A subclass takes (outputs, section, *, preprocessing, dtype, ops, rngs), hands three of them on to `Layered.__init__`, and
    appends its `Layer`s to `layers`, which then begin with the whitening where there is one. It may have `reads`: the names of
    the keys of the `model` section that it uses. One whose weights are published has `references`, the names of its arrays in
    each collection, and `expects`, the images that they want.

    Args:
        preprocessing: of the images; its last steps are the network's first.
        dtype: of the computation, float32 or bfloat16; parameters are float32.
        ops: what computes the layers.
    """

    layers: tuple[Layer, ...]
    references: ClassVar[References] = {}
    expects: ClassVar[Expected] = Expected()
    # Architectures of timm with the same names and shapes, which compute otherwise.
    lookalikes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, preprocessing: Preprocessing, dtype, ops: Ops):
        self.preprocessing, self.dtype, self.ops = preprocessing, dtype, ops
        self.layers = ()
        if preprocessing.zca:
            self.whiten = Whiten(preprocessing.shape, dtype)
            self.layers = (Layer("whiten", "whiten", "whiten"),)

    @staticmethod
    def has_norm(section: Model) -> bool:
        """Returns whether the network of a `model` section has batch normalisation."""
        return False

    def refitted(self, path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns a published array in the shape that it has here, such as position embeddings at another image size.

        Args:
            path: of the array in the network, such as ("embed", "pos_embed").
            array: as published, in the layout of this network.
            shape: that it has here.

        Returns:
            The array of that shape; None where it is to stay as it is, or no sensible one exists.
        """
        return None

    def _module(self, layer: Layer) -> nnx.Module | None:
        return getattr(self, layer.module) if layer.module else None

    def apply(self, layer: Layer, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Applies one layer."""
        module = self._module(layer)
        if layer.kind == "pool":
            x = self.ops.max_pool(x, *layer.window)
        elif layer.kind == "average":
            x = x.mean((1, 2))
        elif layer.kind == "flatten":
            x = x.reshape(x.shape[0], -1)
        elif layer.kind == "dropout":
            x = module(x, rngs=rngs)
        elif layer.kind == "norm" and layer.relu:
            return module(x, relu=True)
        elif layer.kind == "dense" and module.bias is not None:
            x = self.ops.dense(x, module.kernel[...], module.bias[...], dtype=self.dtype)
        else:
            x = module(x).astype(self.dtype)
        return nnx.relu(x) if layer.relu else x

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Computes logits.

        Args:
            images: [b, height, width, 3] in [0, 255], uint8 or float32.
            rngs: feeds dropout in training; comes with each call.

        Returns:
            float32 [b, outputs].
        """
        layers = list(self.layers)
        return self._through(self._entered(images, layers), layers, rngs).astype(jnp.float32)

    @property
    def seen(self) -> int:
        """Number of layers up to the last map that a convolution makes, its norm included; 0 where no such map is known."""
        if type(self).__call__ is not Layered.__call__:
            return 0
        kinds = [layer.kind for layer in self.layers]
        ends = [kinds.index(kind) for kind in ("average", "flatten") if kind in kinds]  # a norm may follow, of no map
        maps = [i for i, kind in enumerate(kinds[: min(ends, default=None)], 1) if kind not in NO_MAPS]
        return maps[-1] if maps else 0

    def features(self, images: jax.Array) -> jax.Array:
        """Computes the map after the first `seen` layers: images as in `__call__` -> [b, h, w, channels]."""
        return self._up_to(self.seen, images)

    def head(self, features: jax.Array) -> jax.Array:
        """Computes the logits of a map from `features`: float32 [b, outputs]."""
        return self._through(features, list(self.layers[self.seen :])).astype(jnp.float32)

    def before_last(self, images: jax.Array) -> jax.Array:
        """Computes the input of the last layer: images as in `__call__` -> [b, numbers]."""
        return self._up_to(len(self.layers) - 1, images)

    def last(self, features: jax.Array) -> jax.Array:
        """Computes the logits of numbers from `before_last`: float32 [b, outputs]."""
        return self._through(features.astype(self.dtype), [self.layers[-1]]).astype(jnp.float32)

    def _up_to(self, count: int, images: jax.Array) -> jax.Array:
        """Applies the first layers, so many of them."""
        layers = list(self.layers[:count])
        return self._through(self._entered(images, layers), layers)

    def _entered(self, images: jax.Array, layers: list[Layer]) -> jax.Array:
        """Scales images; takes the convolutions that scale them themselves off the front of `layers`, and applies these."""
        scale = 1.0 if self.preprocessing.is_standardized else self.preprocessing.scale
        if scale != 1 and (blocks := self._take_blocks(layers)):
            return self.ops.conv_blocks(images, blocks, dtype=self.dtype, scale=scale, input_grad=False)
        return self._prepared(images, jnp.float32 if layers[0].kind == "whiten" else self.dtype)

    def _through(self, x: jax.Array, layers: list[Layer], rngs: nnx.Rngs | None = None) -> jax.Array:
        """Applies layers in turn."""
        while layers:
            if blocks := self._take_blocks(layers):
                x = self.ops.conv_blocks(x, blocks, dtype=self.dtype)
            elif [layer.kind for layer in layers[:2]] == ["conv", "norm"] and hasattr(self._module(layers[0]), "zeros"):
                conv, norm = layers.pop(0), layers.pop(0)
                x = self._module(norm).after(self._module(conv), x, relu=norm.relu)
            else:
                x = self.apply(layers.pop(0), x, rngs)
        return x

    def _prepared(self, images: jax.Array, dtype) -> jax.Array:
        """Returns scaled images, standardized where the preprocessing says so; computed in float32, then rounded once."""
        chosen = self.preprocessing
        x = self.ops.scaled(images, chosen.scale, jnp.float32)
        if chosen.is_standardized:
            mean, deviation = (jnp.array(v, jnp.float32)[None, None, None] for v in (chosen.mean, chosen.deviation))
            x = (x - mean) / deviation
        return x.astype(dtype)

    def _take_blocks(self, layers: list[Layer]) -> list[Block]:
        """Takes 3x3 convolutions with ReLU, each with the 2x2 pool that follows, off the front of `layers`."""
        blocks = []
        while layers and self._begins_block(layers[0]):
            conv, stride = getattr(self, layers.pop(0).module), 0
            if layers and layers[0].kind == "pool" and len(layers[0].window) == 2 and layers[0].window[0] == 2:
                stride = layers.pop(0).window[1]
            blocks.append(Block(conv.kernel[...], conv.bias[...], int(conv.padding == "SAME"), stride))
        return blocks

    def _begins_block(self, layer: Layer) -> bool:
        if layer.kind != "conv" or not layer.relu:
            return False
        conv = getattr(self, layer.module)
        plain = {"strides": (1, 1), "kernel_dilation": (1, 1), "input_dilation": (1, 1)}
        return (
            type(conv) is nnx.Conv and conv.bias is not None and conv.kernel_size == (3, 3) and conv.feature_group_count == 1
            and conv.padding in ("SAME", "VALID") and all(getattr(conv, k) in (1, None, v) for k, v in plain.items())
        )  # fmt: skip
