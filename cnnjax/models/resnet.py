"""Residual networks (He et al. 2015, arXiv:1512.03385), parameter by parameter those of torchvision."""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models.layers import Dropout, Layer, Layered, Norm
from cnnjax.models.references import References, Rules

SMALL = 64  # pixels; smaller images keep their size in the stem

# The names of torchvision, which timm has too.
NAMES: Rules = (
    (r"^norm1$", "bn1"),
    (r"^outputs$", "fc"),
    (r"^block(\d+)_(\d+)\.", lambda found: f"layer{found[1]}.{int(found[2]) - 1}."),
    (r"\.norm(\d)$", r".bn\1"),
    (r"\.projection$", ".downsample.0"),
    (r"\.norm_projection$", ".downsample.1"),
)


def basic(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) of the convolutions of a block of resnet18 and resnet34."""
    return (width, 3, stride), (width, 3, 1)


def bottleneck(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    """The same of resnet50; "v1.5", with the stride in the 3x3 convolution."""
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


class Conv(nnx.Conv):
    """Convolution without a bias, for a norm follows; padded by the same on all sides, as in torch, and not as "SAME" does.

    [b, h, w, channels] -> [b, ceil(h / stride), ceil(w / stride), out]. Weights begin He normal, by `fan`.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, dtype, ops: Ops, rngs: nnx.Rngs, fan: str = "fan_out"
    ):
        super().__init__(channels, out, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, dtype=dtype,
                         param_dtype=jnp.float32, rngs=rngs,
                         kernel_init=nnx.initializers.variance_scaling(2.0, fan, "normal"))  # fmt: skip
        self.ops = ops

    def zeros(self, size: tuple[int, int]) -> int:
        """Returns the padding of all sides, for images of any height and width."""
        return self.kernel.shape[0] // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.ops.conv(x, self.kernel[...], stride=self.strides, dtype=self.dtype)


def _norm(channels: int, dtype, ops: Ops, rngs: nnx.Rngs, scale: float = 1.0) -> Norm:
    return Norm(channels, dtype=dtype, ops=ops, exact=True, epsilon=1e-5, rngs=rngs,
                scale_init=nnx.initializers.constant(scale))  # fmt: skip


class Block(nnx.Module):
    """ReLU of a branch of convolutions plus the input, which a 1x1 convolution brings to the branch's shape.

    [b, h, w, channels] -> [b, ceil(h / stride), ceil(w / stride), out]; where these are equal, the input is added as it is.

    Args:
        channels: of the input.
        convs: (channels, kernel, stride) of each convolution of the branch.
        dtype: of the computation.
        ops: what computes the layers.
        rngs: initial weights.
    """

    def __init__(self, channels: int, convs: Sequence[tuple[int, int, int]], dtype, ops: Ops, rngs: nnx.Rngs):
        self.strides = tuple(stride for *_, stride in convs)
        out, stride = convs[-1][0], math.prod(self.strides)
        self.projects = stride > 1 or channels != out
        if self.projects:
            self.projection = Conv(channels, out, 1, stride, dtype, ops, rngs)
            self.norm_projection = _norm(out, dtype, ops, rngs)
        for i, (width, kernel, stride) in enumerate(convs, 1):
            setattr(self, f"conv{i}", Conv(channels, width, kernel, stride, dtype, ops, rngs))
            setattr(self, f"norm{i}", _norm(width, dtype, ops, rngs, scale=float(i < len(convs))))
            channels = width

    def __call__(self, x: jax.Array) -> jax.Array:
        y, last = x, len(self.strides)
        for i in range(1, last):
            y = getattr(self, f"norm{i}").after(getattr(self, f"conv{i}"), y, relu=True)
        if self.projects:
            x = self.norm_projection.after(self.projection, x)
        return getattr(self, f"norm{last}").after(getattr(self, f"conv{last}"), y, more=x, relu=True)

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolutions, for one image of so many pixels, height and width."""
        total = 0
        for i, stride in enumerate(self.strides, 1):
            sides = tuple((side - 1) // stride + 1 for side in sides)
            total += 2 * math.prod(sides) * math.prod(getattr(self, f"conv{i}").kernel.shape)
        return total + (2 * math.prod(sides) * math.prod(self.projection.kernel.shape) if self.projects else 0)


class ResNet(Layered):
    """A residual network: a stem, four stages of blocks, the average over all places, one dense layer.

    Each stage but the first halves the image. The stem is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2;
    for images below 64 pixels, of which these would leave little, it is one 3x3 convolution of stride 1 as in the
    paper's networks for CIFAR-10.

    Weights begin as in Goyal et al. 2017 (arXiv:1706.02677): of convolutions He normal by fan-out, of the last layer
    normal of deviation 0.01, and each block as the identity, by a zero scale in the last norm of its branch.

    Args:
        outputs: logits per image.
        section: the `model` section; `dropout_dense` acts before the last layer.
        preprocessing: of the images.
        block: (width, stride) -> the convolutions of a block, `basic` or `bottleneck`.
        depths: blocks in each stage.
        widths: of the blocks of each stage.
        dtype: of the computation; parameters and batch statistics are float32.
        ops: what computes the layers.
        rngs: initial weights.
    """

    reads = ("dropout_dense",)
    references: ClassVar[References] = {"timm": NAMES, "torchvision": NAMES}

    def __init__(self, outputs: int, section: Model, *, block, depths: tuple[int, ...],
                 widths: tuple[int, ...] = (64, 128, 256, 512), preprocessing: Preprocessing, dtype=jnp.float32,
                 ops: Ops = PLAIN, rngs: nnx.Rngs):  # fmt: skip
        super().__init__(preprocessing, dtype, ops)
        layers, size = list(self.layers), min(preprocessing.shape)
        channels = widths[0]
        self.conv1 = Conv(3, channels, *((3, 1) if size < SMALL else (7, 2)), dtype, ops, rngs)
        self.norm1 = _norm(channels, dtype, ops, rngs)
        layers += [Layer("conv1", "conv", "conv1"), Layer("norm1", "norm", "norm1", relu=True)]
        if size >= SMALL:
            layers.append(Layer("pool1", "pool", window=(3, 2, 1)))
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                convs = block(width, 2 if stage and not i else 1)
                name = f"block{stage + 1}_{i + 1}"
                setattr(self, name, Block(channels, convs, dtype, ops, rngs))
                layers.append(Layer(name, "block", name))
                channels = convs[-1][0]
        layers.append(Layer("average", "average"))
        self.drop_dense = Dropout(section.dropout_dense)
        if section.dropout_dense:
            layers.append(Layer("dropout", "dropout", "drop_dense"))
        self.outputs = nnx.Linear(channels, outputs, dtype=dtype, param_dtype=jnp.float32, rngs=rngs,
                                  kernel_init=nnx.initializers.normal(0.01))  # fmt: skip
        layers.append(Layer("outputs", "dense", "outputs"))
        self.layers = tuple(layers)

    @staticmethod
    def has_norm(section: Model) -> bool:
        return True
