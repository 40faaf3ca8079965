"""MobileNetV3-Large (Howard et al. 2019, arXiv:1905.02244)."""

import functools
from typing import ClassVar

import jax
from flax import nnx

from cnnjax.config import Model
from cnnjax.models.inverted import TIMM_BLOCKS, Inverted, InvertedResiduals, Style, dense, flat, torchvision_blocks
from cnnjax.models.layers import Layer
from cnnjax.models.references import References

_relu = functools.partial(Inverted, activation="relu")
_swish = functools.partial(Inverted, activation="hard_swish")
LARGE = (
    (_relu(3, 1, 0, 16),),
    (_relu(3, 2, 64, 24), _relu(3, 1, 72, 24)),
    (_relu(5, 2, 72, 40, 24), _relu(5, 1, 120, 40, 32), _relu(5, 1, 120, 40, 32)),
    (_swish(3, 2, 240, 80), _swish(3, 1, 200, 80), _swish(3, 1, 184, 80), _swish(3, 1, 184, 80)),
    (_swish(3, 1, 480, 112, 120), _swish(3, 1, 672, 112, 168)),
    (_swish(5, 2, 672, 160, 168), _swish(5, 1, 960, 160, 240), _swish(5, 1, 960, 160, 240)),
)  # fmt: skip


class MobileNetV3(InvertedResiduals):
    """MobileNetV3-Large of torchvision: hard swish, squeeze-and-excitation in some blocks, a dense layer before the last one.

    Args:
        depths: blocks of each stage, from the first on; (): all.

    The other arguments, the initial weights and the error are those of `InvertedResiduals`.
    """

    style: ClassVar[Style] = Style("hard_swish", ("relu", "hard_sigmoid"), epsilon=1e-3)
    references: ClassVar[References] = {
        "torchvision": (
            (r"^(conv|norm)1$", lambda found: f"features.0.{int(found[1] == 'norm')}"),
            (r"^(conv|norm)2$", lambda found: f"features.16.{int(found[1] == 'norm')}"),
            (r"^hidden$", "classifier.0"),
            (r"^outputs$", "classifier.3"),
            *torchvision_blocks(LARGE, lambda stage, place: f"features.{1 + flat(LARGE, stage, place)}"),
        )
    }

    def __init__(self, outputs: int, section: Model, **options):
        super().__init__(outputs, section, stem=16, stages=LARGE, head=960, **options)

    def _classified(self, channels: int, outputs: int, section: Model, rngs: nnx.Rngs) -> list[Layer]:
        self.hidden = dense(channels, 1280, self.dtype, rngs)
        return [Layer("hidden", "dense", "hidden"), *super()._classified(1280, outputs, section, rngs)]

    def apply(self, layer: Layer, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = super().apply(layer, x, rngs)
        return jax.nn.hard_swish(x) if layer.name == "hidden" else x


class MobileNetV3Timm(MobileNetV3):
    """MobileNetV3-Large of timm, mobilenetv3_large_100: another epsilon, so another network for the same weights."""

    style: ClassVar[Style] = Style("hard_swish", ("relu", "hard_sigmoid"), epsilon=1e-5)
    lookalikes: ClassVar[tuple[str, ...]] = ("tf_mobilenetv3_large_100",)
    references: ClassVar[References] = {
        "timm": (
            (r"^conv1$", "conv_stem"),
            (r"^norm1$", "bn1"),
            (r"^conv2$", "blocks.6.0.conv"),
            (r"^norm2$", "blocks.6.0.bn1"),
            (r"^hidden$", "conv_head"),
            (r"^outputs$", "classifier"),
            *TIMM_BLOCKS,
        )
    }
