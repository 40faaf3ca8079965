"""The phases of a training: updates that share a program, in which the same parameters are trained on images of the same size."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import ConfigError
from cnnjax.models import Network
from cnnjax.training.finetuning import PartlyFrozen, Path, frozen_at
from cnnjax.training.optimizers import Optimizer


@dataclasses.dataclass(frozen=True)
class Phase:
    """Some updates in a row.

    Attributes:
        end: updates before the first that is not part of it; infinite for the last phase.
        frozen: paths of parameters that stay as they are.
        shape: height and width in pixels of the images that the network trains on.
    """

    end: float
    frozen: frozenset[Path]
    shape: tuple[int, int]


def find_phases(config, tx: Optimizer | PartlyFrozen, steps_per_epoch: int) -> tuple[Phase, ...]:
    """Returns the phases of a training: `train.sizes` share its epochs evenly, and `train.unfreeze_epoch` ends one.

    Progressive sizes are those of EfficientNetV2 (arXiv:2104.00298), without its growing regularisation.
    """
    sizes = config.train.sizes or (config.image.size,)
    ends = [round(config.train.epochs * (i + 1) / len(sizes)) * steps_per_epoch for i in range(len(sizes) - 1)]
    starts = sorted({0, *ends, *([tx.until] if tx.until else [])})
    return tuple(
        Phase(end, frozen_at(tx, start), _shape(config.image, sizes[sum(start >= end for end in ends)]))
        for start, end in zip(starts, [*starts[1:], math.inf], strict=True)
    )


def _shape(image, size: int) -> tuple[int, int]:
    """Height and width of training images whose height is `size`, in the proportions of the `image` section."""
    height, width = image.shape
    return size, round(width * size / height)


def resized(images: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns [b, h, w, 3] in [0, 255] at another height and width, antialiased, float32; the images as they are where it is theirs."""
    if images.shape[1:3] == shape:
        return images
    return jax.image.resize(images.astype(jnp.float32), (images.shape[0], *shape, 3), "linear")


def check_sizes(config, network: Network) -> None:
    """Checks that the network takes images of all `train.sizes`. Raises ConfigError where its weights are for one size."""
    for size in config.train.sizes:
        shape = _shape(config.image, size)
        try:
            jax.eval_shape(lambda params, stats, x: nnx.merge(network.eval_def, params, stats)(x), *network.shapes,
                           jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8))  # fmt: skip
        except (TypeError, ValueError):
            raise ConfigError(
                f"train.sizes={','.join(map(str, config.train.sizes))}: {config.model.name} has weights for images of "
                f"{config.image.size} pixels alone; use a network that averages over all places, such as "
                "--config.model.name=resnet18, or leave train.sizes out"
            ) from None
