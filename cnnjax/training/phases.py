"""The phases of a training: updates that share a program, in which the same parameters are trained on images of the same size."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

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
    """Returns the phases of a training: `train.scales` share its epochs evenly, and `train.unfreeze_epoch` ends one.

    Progressive sizes are those of EfficientNetV2 (arXiv:2104.00298), without its growing regularisation.
    """
    scales = config.train.scales or (1.0,)
    ends = [round(config.train.epochs * (i + 1) / len(scales)) * steps_per_epoch for i in range(len(scales) - 1)]
    starts = sorted({0, *ends, *([tx.until] if tx.until else [])})
    return tuple(
        Phase(end, frozen_at(tx, start), _shape(config.image, scales[sum(start >= end for end in ends)]))
        for start, end in zip(starts, [*starts[1:], math.inf], strict=True)
    )


def _shape(image, scale: float) -> tuple[int, int]:
    """Height and width of training images, `scale` times those of the `image` section."""
    height, width = (max(round(side * scale), 1) for side in image.shape)
    return height, width


def resized(images: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns [b, h, w, 3] in [0, 255] at another height and width, antialiased, float32; the images as they are where it is theirs."""
    if images.shape[1:3] == shape:
        return images
    images = lax.optimization_barrier(
        images
    )  # without it XLA computes the images again for each row and column that it weighs
    return jax.image.resize(images.astype(jnp.float32), (images.shape[0], *shape, 3), "linear")


def check_scales(config, network: Network) -> None:
    """Checks that the network takes images of all `train.scales`. Raises ConfigError where its weights are for one size."""
    for scale in config.train.scales:
        shape = _shape(config.image, scale)
        try:
            jax.eval_shape(lambda params, stats, x: nnx.merge(network.eval_def, params, stats)(x), *network.shapes,
                           jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8))  # fmt: skip
        except (TypeError, ValueError):
            raise ConfigError(
                f"train.scales={','.join(map(str, config.train.scales))}: {config.model.name} does not take images of {shape[0]}x{shape[1]} pixels beside "
                f"those of {'x'.join(map(str, config.image.shape))}; use --config.train.scales='()', or a network that averages over all places, such as "
                "--config.model.name=resnet18"
            ) from None
