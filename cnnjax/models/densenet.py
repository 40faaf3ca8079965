"""DenseNet (Huang et al. 2017, arXiv:1608.06993), parameter by parameter that of torchvision and timm."""

import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models.layers import Dropout, Layer, Layered, Norm
from cnnjax.models.references import References, Rules
from cnnjax.models.resnet import Conv

# The names of torchvision, which timm has too.
NAMES: Rules = (
    (r"^(conv|norm)1$", r"features.\g<1>0"),
    (r"^block(\d+)_(\d+)\.", r"features.denseblock\1.denselayer\2."),
    (r"^transition", "features.transition"),
    (r"^norm2$", "features.norm5"),
    (r"^outputs$", "classifier"),
)

_conv = functools.partial(Conv, fan="fan_in")
_norm = functools.partial(Norm, exact=True, epsilon=1e-5)


class Block(nnx.Module):
    """The input, and after it `growth` channels more that two convolutions make of it, each behind a norm and ReLU.

    [b, h, w, channels] -> [b, h, w, channels + growth].

    Args:
        channels: of the input.
        growth: channels that are added; the 1x1 convolution makes four times as many, the 3x3 convolution these.
        dtype: of the computation.
        ops: what computes the layers.
        rngs: initial weights.
    """

    def __init__(self, channels: int, growth: int, dtype, ops: Ops, rngs: nnx.Rngs):
        self.norm1 = _norm(channels, dtype=dtype, ops=ops, rngs=rngs)
        self.conv1 = _conv(channels, 4 * growth, 1, 1, dtype, ops, rngs)
        self.norm2 = _norm(4 * growth, dtype=dtype, ops=ops, rngs=rngs)
        self.conv2 = _conv(4 * growth, growth, 3, 1, dtype, ops, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm2.after(self.conv1, self.norm1(x, relu=True), relu=True)
        return jnp.concatenate((x, self.conv2(y)), -1)

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolutions, for one image of height and width."""
        return 2 * math.prod(sides) * (math.prod(self.conv1.kernel.shape) + math.prod(self.conv2.kernel.shape))


class Transition(nnx.Module):
    """Norm, ReLU, 1x1 convolution and mean of 2x2 pixels: [b, h, w, channels] -> [b, h // 2, w // 2, out]."""

    def __init__(self, channels: int, out: int, dtype, ops: Ops, rngs: nnx.Rngs):
        self.norm = _norm(channels, dtype=dtype, ops=ops, rngs=rngs)
        self.conv = _conv(channels, out, 1, 1, dtype, ops, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.norm(x, relu=True))
        b, h, w, channels = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, channels)
        return x.mean((2, 4))

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolution, for one image of height and width."""
        return 2 * math.prod(sides) * math.prod(self.conv.kernel.shape)


class DenseNet(Layered):
    """The stem of a residual network, stages of blocks with a transition between them, norm, ReLU, the average, one dense layer.

    A transition halves the image and its channels. Weights of convolutions begin He normal by fan-in, those of the last
    layer uniform within 1 / sqrt(channels), as in torchvision.

    Args:
        outputs: logits per image.
        section: the `model` section; `dropout_dense` acts before the last layer.
        preprocessing: of the images.
        depths: blocks in each stage.
        growth: channels that a block adds; the stem makes twice as many.
        dtype: of the computation; parameters and batch statistics are float32.
        ops: what computes the layers.
        rngs: initial weights.

    Raises:
        ValueError: nothing is left of the image after a transition.
    """

    reads = ("dropout_dense",)
    references: ClassVar[References] = {"timm": NAMES, "torchvision": NAMES}

    def __init__(self, outputs: int, section: Model, *, depths: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32,
                 preprocessing: Preprocessing, dtype=jnp.float32, ops: Ops = PLAIN, rngs: nnx.Rngs):  # fmt: skip
        super().__init__(preprocessing, dtype, ops)
        layers, channels = list(self.layers), 2 * growth
        left = -(-min(preprocessing.shape) // 4) >> len(depths) - 1  # the stem rounds up, a transition down
        if not left:
            raise ValueError(f"nothing is left of them after {len(depths) - 1} transitions")
        self.conv1 = _conv(3, channels, 7, 2, dtype, ops, rngs)
        self.norm1 = _norm(channels, dtype=dtype, ops=ops, rngs=rngs)
        layers += [Layer("conv1", "conv", "conv1"), Layer("norm1", "norm", "norm1", relu=True),
                   Layer("pool1", "pool", window=(3, 2, 1))]  # fmt: skip
        for stage, depth in enumerate(depths, 1):
            made = {}
            if stage > 1:
                made[f"transition{stage - 1}"] = Transition(channels, channels // 2, dtype, ops, rngs)
                channels //= 2
            for i in range(depth):
                made[f"block{stage}_{i + 1}"] = Block(channels, growth, dtype, ops, rngs)
                channels += growth
            for name, module in made.items():
                setattr(self, name, module)
                layers.append(Layer(name, "block", name))
        self.norm2 = _norm(channels, dtype=dtype, ops=ops, rngs=rngs)
        layers += [Layer("norm2", "norm", "norm2", relu=True), Layer("average", "average")]
        self.drop_dense = Dropout(section.dropout_dense)
        if section.dropout_dense:
            layers.append(Layer("dropout", "dropout", "drop_dense"))
        self.outputs = nnx.Linear(channels, outputs, dtype=dtype, param_dtype=jnp.float32, rngs=rngs,
                                  kernel_init=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))  # fmt: skip
        layers.append(Layer("outputs", "dense", "outputs"))
        self.layers = tuple(layers)

    @staticmethod
    def has_norm(section: Model) -> bool:
        return True
