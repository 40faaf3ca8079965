"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545), parameter by parameter that of timm and torchvision."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models.layers import Dropout, Layer, Layered
from cnnjax.models.norms import LayerNorm
from cnnjax.models.patches import OPTIONS, Dense, Patches, mlp
from cnnjax.models.references import References

KERNEL = 7  # pixels, of the depthwise convolutions


NAMES: References = {
    "timm": (
        (r"^conv1$", "stem.0"),
        (r"^norm1$", "stem.1"),
        (r"^block(\d+)_(\d+)", lambda found: f"stages.{int(found[1]) - 1}.blocks.{int(found[2]) - 1}"),
        (r"(blocks\.\d+\.conv)$", r"\1_dw"),
        (r"\.dense", ".mlp.fc"),
        (r"^halving(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.downsample."),
        (r"downsample\.norm$", "downsample.0"),
        (r"downsample\.conv$", "downsample.1"),
        (r"^norm2$", "head.norm"),
        (r"^outputs$", "head.fc"),
    ),
    "torchvision": (
        (r"^conv1$", "features.0.0"),
        (r"^norm1$", "features.0.1"),
        (r"^block(\d+)_(\d+)\.", lambda found: f"features.{2 * int(found[1]) - 1}.{int(found[2]) - 1}.block."),
        (r"^block(\d+)_(\d+)$", lambda found: f"features.{2 * int(found[1]) - 1}.{int(found[2]) - 1}"),
        (r"block\.conv$", "block.0"),
        (r"block\.norm$", "block.2"),
        (r"block\.dense1$", "block.3"),
        (r"block\.dense2$", "block.5"),
        (r"^halving(\d+)\.norm$", lambda found: f"features.{2 * int(found[1]) - 2}.0"),
        (r"^halving(\d+)\.conv$", lambda found: f"features.{2 * int(found[1]) - 2}.1"),
        (r"^norm2$", "classifier.0"),
        (r"^outputs$", "classifier.2"),
        (":gamma", "layer_scale"),
    ),
}


class Depthwise(nnx.Conv):
    """Convolution of each channel by itself, with a bias: [b, h, w, channels] -> the same shape."""

    def __init__(self, channels: int, dtype, ops: Ops, rngs: nnx.Rngs):
        super().__init__(
            channels, channels, (KERNEL, KERNEL), feature_group_count=channels, dtype=dtype, rngs=rngs, **OPTIONS
        )
        self.ops = ops

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.ops.depthwise(x, self.kernel[...], stride=1, padding=KERNEL // 2, dtype=self.dtype)
        return x + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


class Block(nnx.Module):
    """The input plus a scaled branch: depthwise convolution, norm, two dense layers at each place with a GELU between them.

    [b, h, w, channels] -> the same shape.

    Args:
        channels: of the input.
        dtype: of the computation.
        ops: what computes the convolution and the dense layers.
        rngs: initial weights.
    """

    def __init__(self, channels: int, dtype, ops: Ops, rngs: nnx.Rngs):
        self.conv = Depthwise(channels, dtype, ops, rngs)
        self.norm = LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.dense1 = Dense(channels, 4 * channels, dtype, ops, rngs)
        self.dense2 = Dense(4 * channels, channels, dtype, ops, rngs)
        self.gamma = nnx.Param(jnp.full(channels, 1e-6, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = mlp(self.dense1, self.dense2, self.norm(self.conv(x)))
        return x + self.gamma[...].astype(self.dtype).reshape(1, 1, 1, -1) * y

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolution and the dense layers, for one image of height and width."""
        kernels = (self.conv, self.dense1, self.dense2)
        return 2 * math.prod(sides) * sum(math.prod(layer.kernel.shape) for layer in kernels)


class Downsample(nnx.Module):
    """Norm, then a 2x2 convolution of stride 2: [b, h, w, channels] -> [b, h // 2, w // 2, out]."""

    def __init__(self, channels: int, out: int, dtype, ops: Ops, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.conv = Patches(channels, out, 2, dtype, ops, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))

    def operations(self, sides: tuple[int, int]) -> int:
        """Multiplications and additions of the convolution, for one image of height and width."""
        return 2 * math.prod(side // 2 for side in sides) * math.prod(self.conv.kernel.shape)


class ConvNeXt(Layered):
    """A stem of 4x4 squares, stages of blocks with a halving of the image between them, the average, a norm, one dense layer.

    Weights begin as in the paper: of convolutions and dense layers normal of deviation 0.02, biases 0, and each block
    almost as the identity, by a scale of 1e-6 of its branch.

    Args:
        outputs: logits per image.
        section: the `model` section; `dropout_dense` acts before the last layer.
        preprocessing: of the images.
        depths: blocks in each stage.
        widths: channels in each stage.
        dtype: of the computation; parameters are float32, and so are norms.
        ops: what computes convolutions and dense layers.
        rngs: initial weights.

    Raises:
        ValueError: the image has less than one place in the last stage.
    """

    reads = ("dropout_dense",)
    references: ClassVar[References] = NAMES

    def __init__(self, outputs: int, section: Model, *, depths: tuple[int, ...], widths: tuple[int, ...],
                 preprocessing: Preprocessing, dtype=jnp.float32, ops: Ops = PLAIN, rngs: nnx.Rngs):  # fmt: skip
        super().__init__(preprocessing, dtype, ops)
        if min(preprocessing.shape) < (least := 2 ** (len(depths) + 1)):
            raise ValueError(f"a place of its last map is {least} x {least} pixels")
        layers, channels = list(self.layers), widths[0]
        self.conv1 = Patches(3, channels, 4, dtype, ops, rngs)
        self.norm1 = LayerNorm(channels, dtype=dtype, rngs=rngs)
        layers += [Layer("conv1", "conv", "conv1"), Layer("norm1", "norm", "norm1")]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            made = {f"block{stage}_{i + 1}": Block(width, dtype, ops, rngs) for i in range(depth)}
            if stage > 1:
                made = {f"halving{stage}": Downsample(channels, width, dtype, ops, rngs), **made}
            for name, module in made.items():
                setattr(self, name, module)
                layers.append(Layer(name, "block", name))
            channels = width
        self.norm2 = LayerNorm(channels, dtype=dtype, rngs=rngs)
        layers += [Layer("average", "average"), Layer("norm2", "norm", "norm2")]
        self.drop_dense = Dropout(section.dropout_dense)
        if section.dropout_dense:
            layers.append(Layer("dropout", "dropout", "drop_dense"))
        self.outputs = nnx.Linear(channels, outputs, dtype=dtype, rngs=rngs, **OPTIONS)
        layers.append(Layer("outputs", "dense", "outputs"))
        self.layers = tuple(layers)
