"""Inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381), and networks that are a stem, stages of them and a head."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import ACTIVATIONS, PLAIN, Ops, Padding, same_padding
from cnnjax.models.layers import Dropout, Layer, Layered, Norm, chained
from cnnjax.models.references import Rules

LEAST = 32  # pixels; the image is halved five times
HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
HE_DEPTHWISE = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")  # of [k, k, 1, c]: k * k outputs see an input


class Inverted(NamedTuple):
    """One block: a convolution to more channels, one within each channel, and one to fewer."""

    kernel: int
    stride: int
    wide: int  # channels inside; 0: nothing widens the input
    out: int  # channels of the result
    squeezed: int = 0  # channels of squeeze-and-excitation; 0: there is none
    activation: str = "silu"  # one of `ACTIVATIONS`
    fused: bool = False  # one convolution of all channels in place of the first two

    def convs(self, channels: int) -> list[tuple[int, int, int, int]]:
        """(channels, kernel, stride, groups) of each convolution, after an input of so many channels."""
        wide = self.wide or channels
        if self.fused:
            first = [(wide if self.wide else self.out, self.kernel, self.stride, 1)]
        else:
            first = [(wide, 1, 1, 1)] if self.wide else []
            first.append((wide, self.kernel, self.stride, wide))
        return first if self.fused and not self.wide else [*first, (self.out, 1, 1, 1)]


@dataclasses.dataclass(frozen=True)
class Style:
    """The properties that all layers of a network share."""

    activation: str = "silu"  # after the stem and before the average; blocks have their own
    squeeze: tuple[str, str] = ("silu", "sigmoid")  # activations inside squeeze-and-excitation
    epsilon: float = 1e-5  # of batch normalisation
    same: bool = False  # padding as in TensorFlow: of an even side at stride 2 only below and to the right
    dtype: Any = jnp.float32  # of the computation
    ops: Ops = PLAIN


class Conv(nnx.Conv):
    """Convolution without a bias, for a norm follows: [b, h, w, channels] -> [b, ceil(h / stride), ceil(w / stride), out]."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, style: Style, rngs: nnx.Rngs, *, groups: int = 1):
        super().__init__(channels, out, (kernel, kernel), stride, use_bias=False, dtype=style.dtype, param_dtype=jnp.float32,
                         feature_group_count=groups, rngs=rngs, kernel_init=HE if groups == 1 else HE_DEPTHWISE)  # fmt: skip
        self.style = style

    def zeros(self, size: tuple[int, int]) -> Padding:
        """Returns the padding for images of a height and width."""
        kernel = self.kernel.shape[0]
        return same_padding(size, kernel, self.strides) if self.style.same else kernel // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        convolve = self.style.ops.depthwise if self.feature_group_count > 1 else self.style.ops.conv
        return convolve(x, self.kernel[...], stride=self.strides, padding=self.zeros(x.shape[1:3]), dtype=self.dtype)


def norm(channels: int, activation: str, style: Style, rngs: nnx.Rngs) -> Norm:
    """Batch normalisation and the activation that follows it."""
    return Norm(
        channels, dtype=style.dtype, ops=style.ops, exact=True, epsilon=style.epsilon, activation=activation, rngs=rngs
    )


class Squeeze(nnx.Module):
    """Squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507): the factors of channels, a function of their means over an image.

    [b, channels] -> the same shape. Its two layers are stored as 1x1 convolutions.
    """

    def __init__(self, channels: int, squeezed: int, style: Style, rngs: nnx.Rngs):
        self.reduce, self.expand = (
            nnx.Conv(a, b, (1, 1), dtype=style.dtype, param_dtype=jnp.float32, kernel_init=HE, rngs=rngs)
            for a, b in ((channels, squeezed), (squeezed, channels))
        )
        self.style = style

    def __call__(self, means: jax.Array) -> jax.Array:
        y = means
        for conv, activation in zip((self.reduce, self.expand), self.style.squeeze, strict=True):
            y = self.style.ops.dense(y, conv.kernel[...][0, 0], conv.bias[...], dtype=self.style.dtype)
            y = ACTIVATIONS[activation](y)
        return y


class Block(nnx.Module):
    """One inverted residual block; its input is added where the result has the same shape.

    [b, h, w, channels] -> [b, ceil(h / stride), ceil(w / stride), out].

    Args:
        channels: of the input.
        block: what it is made of.
        style: of the network.
        rngs: initial weights.
    """

    def __init__(self, channels: int, block: Inverted, style: Style, rngs: nnx.Rngs):
        convs = block.convs(channels)
        self.count, self.adds = len(convs), block.stride == 1 and channels == block.out
        if block.squeezed:
            self.squeeze = Squeeze(convs[-2][0], block.squeezed, style, rngs)
        for i, (width, kernel, stride, groups) in enumerate(convs, 1):
            # The last one is linear; a block of one convolution is not.
            activation = "none" if 1 < i == len(convs) else block.activation
            setattr(self, f"conv{i}", Conv(channels, width, kernel, stride, style, rngs, groups=groups))
            setattr(self, f"norm{i}", norm(width, activation, style, rngs))
            channels = width

    def __call__(self, x: jax.Array) -> jax.Array:
        pairs = [(getattr(self, f"conv{i}"), getattr(self, f"norm{i}")) for i in range(1, self.count + 1)]
        more = x if self.adds else None
        if self.count == 1:  # the sum comes after its activation
            return chained(pairs, x) if more is None else x + chained(pairs, x)
        return chained(pairs, x, more=more, gate=self.squeeze if hasattr(self, "squeeze") else None)

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolutions, for one image of so many pixels, height and width."""
        total = 0
        for i in range(1, self.count + 1):
            conv = getattr(self, f"conv{i}")
            sides = tuple((side - 1) // conv.strides + 1 for side in sides)
            total += 2 * math.prod(sides) * math.prod(conv.kernel.shape)
        if hasattr(self, "squeeze"):
            total += 2 * sum(math.prod(conv.kernel.shape) for conv in (self.squeeze.reduce, self.squeeze.expand))
        return total


class InvertedResiduals(Layered):
    """A network of inverted residual blocks: a stem that halves the image, stages of blocks, a 1x1 convolution, the average.

    Convolutions begin He normal by their outputs, a depthwise one by those of its channel; so do the papers' and timm's. The
    last layer begins normal of deviation 0.01, as in torchvision's MobileNet. No block is ever left out: stochastic depth is
    off in timm, too, unless one asks for it.

    Args:
        outputs: logits per image.
        section: the `model` section; `dropout_dense` acts before the last layer.
        preprocessing: of the images, from 32 pixels on.
        stem: channels of the first convolution.
        stages: the blocks of each stage.
        head: channels of the last convolution.
        depths: blocks of each stage, from the first on; (): all.
        dtype: of the computation; parameters and batch statistics are float32.
        ops: what computes the layers.
        rngs: initial weights.

    Raises:
        ValueError: the images are too small.
    """

    reads = ("dropout_dense",)
    style: ClassVar[Style] = Style()

    def __init__(self, outputs: int, section: Model, *, stem: int, stages: Sequence[Sequence[Inverted]], head: int,
                 depths: Sequence[int] = (), preprocessing: Preprocessing, dtype=jnp.float32, ops: Ops = PLAIN,
                 rngs: nnx.Rngs):  # fmt: skip
        super().__init__(preprocessing, dtype, ops)
        if min(preprocessing.shape) < LEAST:
            raise ValueError(f"it halves them five times and takes {LEAST} or more")
        style = dataclasses.replace(self.style, dtype=dtype, ops=ops)
        layers = list(self.layers)
        layers += self._convolved("1", 3, stem, 3, 2, style, rngs)
        channels = stem
        for stage, (blocks, depth) in enumerate(zip(stages, depths or map(len, stages), strict=True), 1):
            for i, block in enumerate(blocks[:depth], 1):
                name = f"block{stage}_{i}"
                setattr(self, name, Block(channels, block, style, rngs))
                layers.append(Layer(name, "block", name))
                channels = block.out
        layers += [*self._convolved("2", channels, head, 1, 1, style, rngs), Layer("average", "average")]
        self.layers = (*layers, *self._classified(head, outputs, section, rngs))

    def _convolved(self, number: str, channels: int, out: int, kernel: int, stride: int, style: Style, rngs: nnx.Rngs
                   ) -> list[Layer]:  # fmt: skip
        """Makes a convolution outside of the blocks and its norm; returns their layers."""
        setattr(self, f"conv{number}", Conv(channels, out, kernel, stride, style, rngs))
        setattr(self, f"norm{number}", norm(out, style.activation, style, rngs))
        return [Layer(f"{kind}{number}", kind, f"{kind}{number}") for kind in ("conv", "norm")]

    def _classified(self, channels: int, outputs: int, section: Model, rngs: nnx.Rngs) -> list[Layer]:
        """Makes what follows the average; returns its layers."""
        self.drop_dense = Dropout(section.dropout_dense)
        self.outputs = dense(channels, outputs, self.dtype, rngs)
        drop = [Layer("dropout", "dropout", "drop_dense")] if section.dropout_dense else []
        return [*drop, Layer("outputs", "dense", "outputs")]

    @staticmethod
    def has_norm(section: Model) -> bool:
        return True


def dense(channels: int, units: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer of weights that begin normal of deviation 0.01: [b, channels] -> [b, units]."""
    return nnx.Linear(channels, units, dtype=dtype, param_dtype=jnp.float32, rngs=rngs,
                      kernel_init=nnx.initializers.normal(0.01))  # fmt: skip


# Names of arrays elsewhere

PART = r"^block(\d+)_(\d+)\.(conv|norm|squeeze)(.+)$"

# Of timm's blocks, as its EfficientNet and MobileNetV3 have them.
TIMM_BLOCKS: Rules = (
    (r"^(block1_\d+)\.conv1$", r"\1.conv_dw"),
    (r"^(block1_\d+)\.conv2$", r"\1.conv_pw"),
    (r"\.conv1$", ".conv_pw"),
    (r"\.conv2$", ".conv_dw"),
    (r"\.conv3$", ".conv_pwl"),
    (r"\.norm(\d)$", r".bn\1"),
    (r"\.squeeze\.", ".se.conv_"),
    (r"^block(\d+)_(\d+)", lambda found: f"blocks.{int(found[1]) - 1}.{int(found[2]) - 1}"),
)


def torchvision_blocks(stages: Sequence[Sequence[Inverted]], at: Callable[[int, int], str]) -> Rules:
    """Returns the rule of torchvision's blocks, which number convolutions and squeeze-and-excitation together.

    Args:
        stages: the blocks of each stage.
        at: the path of a block there, by its stage and its place in the stage, both from 1 on.
    """

    def there(found: re.Match) -> str:
        stage, place, kind, rest = int(found[1]), int(found[2]), found[3], found[4]
        block = stages[stage - 1][place - 1]
        last = len(block.convs(1))
        if kind == "squeeze":
            part = f"{last - 1}.{'fc1' if rest == '.reduce' else 'fc2'}"
        else:
            part = f"{int(rest) - 1 + (int(rest) == last and block.squeezed > 0)}.{int(kind == 'norm')}"
        return f"{at(stage, place)}.block.{part}"

    return ((PART, there),)


def flat(stages: Sequence[Sequence[Inverted]], stage: int, place: int) -> int:
    """Returns the number of a block among those of all stages, from 0 on; `stage` and `place` count from 1."""
    return sum(map(len, stages[: stage - 1])) + place - 1
