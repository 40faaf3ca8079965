"""Networks layer by layer, weights and a batch, the same for every side. NumPy alone."""

import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and the batches it is trained on.

    Attributes:
        size: pixels, height and width.
        batch: images.
        classes: two of them share one logit.
        channels, convs, padding: of each block of 3x3 convolutions; () for residual networks.
        pool_stride: of the 2x2 max-pool that closes a block.
        dropout_features: fraction, before the flatten.
        dense: units of the hidden dense layers.
        dropout_dense: fraction, after each of them.
        config: file in configs/ from which cnnjax takes the same.
        depths: blocks in each stage of torchvision's residual network of this name; () for convnets.
        bottleneck: its blocks have three convolutions, not two.
    """

    size: int
    batch: int
    classes: int
    channels: tuple[int, ...] = ()
    convs: tuple[int, ...] = ()
    padding: tuple[str, ...] = ()
    pool_stride: int = 2
    dropout_features: float = 0.0
    dense: tuple[int, ...] = ()
    dropout_dense: float = 0.0
    config: str = "folder.py"
    depths: tuple[int, ...] = ()
    bottleneck: bool = False


TASKS = {
    "malaria": Task(32, 64, 2, (16, 16, 16), (1, 2, 2), ("valid", "same", "same"), 1, 0.0, (64, 32), 0.2, "malaria.py"),
    "flowers": Task(180, 32, 5, (16, 32, 64), (1, 1, 1), ("same", "same", "same"), 2, 0.2, (128,), 0.0, "flowers.py"),
    "resnet18": Task(64, 32, 10, depths=(2, 2, 2, 2)),
    "resnet50": Task(224, 256, 1000, depths=(3, 4, 6, 3), bottleneck=True),
}

RATE, EPSILON = 1e-3, 1e-7  # of Adam, for all; Keras' defaults
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9  # torchvision's
RUN = {"epochs": 30, "patience": 10}  # of a whole run: it stops when the validation loss has not fallen for so long
LAST = 4  # the loss of so many training steps is compared


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a worker, which receives them as JSON."""

    task: str
    size: int
    batch: int
    classes: int
    precision: str = "float32"
    threads: int = 1
    seconds: float = 1.0  # of work between two answers, about
    seed: int = 0
    data: str = ""  # folder with a folder of image files per class
    scratch: str = ""  # folder of this side alone

    @property
    def spec(self) -> Task:
        return TASKS[self.task]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Layer(NamedTuple):
    """One layer of a convnet. `shape` is that of the kernel, or of what a flatten receives."""

    kind: str  # conv, pool, dropout, flatten, dense
    name: str = ""
    shape: tuple[int, ...] = ()
    padding: str = ""
    relu: bool = True
    rate: float = 0.0


def outputs(classes: int) -> int:
    """Logits: one for two classes, of the second one."""
    return 1 if classes == 2 else classes


def layers(settings: Settings) -> list[Layer]:
    """The convnet of a task, with the names that cnnjax gives."""
    task, size, channels, found = settings.spec, settings.size, 3, []
    for block, (width, convs, padding) in enumerate(zip(task.channels, task.convs, task.padding, strict=True), 1):
        for i in range(1, convs + 1):
            name = f"conv{block}" + (f"_{i}" if convs > 1 else "")
            found.append(Layer("conv", name, (3, 3, channels, width), padding))
            channels = width
            size -= 2 * (padding == "valid")
        found.append(Layer("pool"))
        size = (size - 2) // task.pool_stride + 1
    if task.dropout_features:
        found.append(Layer("dropout", rate=task.dropout_features))
    found.append(Layer("flatten", shape=(size, size, channels)))
    width = size * size * channels
    for i, units in enumerate(task.dense, 1):
        found.append(Layer("dense", f"dense{i}", (width, units)))
        if task.dropout_dense:
            found.append(Layer("dropout", rate=task.dropout_dense))
        width = units
    found.append(Layer("dense", "outputs", (width, outputs(settings.classes)), relu=False))
    return found


class Block(NamedTuple):
    """One block of a residual network.

    Attributes:
        name: as cnnjax calls it.
        convs: (channels, kernel, stride) of each convolution of the branch.
        projects: stride of the 1x1 convolution beside the branch; 0 where the input is added as it is.
    """

    name: str
    convs: tuple[tuple[int, int, int], ...]
    projects: int


def blocks(task: Task) -> list[Block]:
    """The blocks of a residual network; the stride is in the first convolution of a basic block, in the second of a bottleneck."""
    found, channels = [], 64
    for stage, depth in enumerate(task.depths):
        width = 64 * 2**stage
        for i in range(depth):
            stride = 2 if stage and not i else 1
            basic = ((width, 3, stride), (width, 3, 1))
            convs = ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)) if task.bottleneck else basic
            out = convs[-1][0]
            found.append(Block(f"block{stage + 1}_{i + 1}", convs, stride if stride > 1 or channels != out else 0))
            channels = out
    return found


def shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights: "layer/kernel" -> shape; kernels are [height, width, in, out]."""
    found: dict[str, tuple[int, ...]] = {}
    if not settings.spec.depths:
        for layer in layers(settings):
            if layer.kind in ("conv", "dense"):
                found |= {f"{layer.name}/kernel": layer.shape, f"{layer.name}/bias": layer.shape[-1:]}
        return found

    def add(conv: str, norm: str, *shape: int) -> None:
        found[f"{conv}/kernel"] = shape
        found.update({f"{norm}/{leaf}": shape[-1:] for leaf in ("scale", "bias", "mean", "var")})

    add("conv1", "norm1", 7, 7, 3, 64)
    channels = 64
    for block in blocks(settings.spec):
        given = channels
        for i, (out, kernel, _) in enumerate(block.convs, 1):
            add(f"{block.name}/conv{i}", f"{block.name}/norm{i}", kernel, kernel, channels, out)
            channels = out
        if block.projects:
            add(f"{block.name}/projection", f"{block.name}/norm_projection", 1, 1, given, channels)
    return found | {"outputs/kernel": (channels, outputs(settings.classes)), "outputs/bias": (outputs(settings.classes),)}


def weights(settings: Settings) -> dict[str, np.ndarray]:
    """The weights and batch statistics that all sides start from: "layer/leaf" -> float32."""
    found = {}
    for i, (name, shape) in enumerate(sorted(shapes(settings).items())):
        rng, leaf = np.random.default_rng([settings.seed, i]), name.rpartition("/")[2]
        if leaf == "kernel":
            value = rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        elif leaf in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, shape)
            # Without batch statistics each of 16 blocks would double the variance, and the loss would be in the thousands.
            value = 0.2 * value if name.endswith("norm3/scale") else value
        else:
            value = rng.normal(0, 0.05, shape)
        found[name] = value.astype(np.float32)
    return found


def batch(settings: Settings, batches: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The batch of all sides, or several: uint8 [batches * b, size, size, 3] of blotches with noise, int32 [batches * b]."""
    rng = np.random.default_rng([settings.seed, 1 << 20])
    count, size = batches * settings.batch, settings.size
    coarse = rng.integers(30, 226, (count, 1 + size // 8, 1 + size // 8, 3))
    images = coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size] + rng.integers(-30, 30, (count, size, size, 3))
    return images.astype(np.uint8), rng.integers(0, settings.classes, count).astype(np.int32)
