"""Tiny networks of every row of `MODELS`, with drawn weights, ready to export."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from training_tools import settings

from cnnjax import metrics, models
from cnnjax.config import Preprocessing
from cnnjax.export import Portable, make_card
from cnnjax.inference import logits_step
from cnnjax.kernels import PLAIN

INVERTED = {"depths": (1, 1, 1, 0, 0, 0, 0)}
# Name of a network -> (pixels, arguments that make it small); the others are small by themselves.
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "convnet": (20, {}),
    **dict.fromkeys(("resnet18", "resnet34"), (64, {"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12)})),
    "resnet50": (24, {"depths": (2, 1, 1, 1), "widths": (4, 4, 8, 8)}),
    **dict.fromkeys(("efficientnet_lite0", "efficientnet_b0"), (34, INVERTED)),
    **dict.fromkeys(("efficientnetv2_s", "tf_efficientnetv2_s"), (34, {"depths": (2, 1, 0, 1, 0, 0)})),
    **dict.fromkeys(("mobilenetv3_large", "mobilenetv3_large_100"), (34, {"depths": (1, 1, 1, 1, 0, 0)})),
    **dict.fromkeys(("convnext_nano", "convnext_tiny"), (38, {"depths": (1, 1, 1, 1), "widths": (8, 8, 12, 12)})),
    "densenet121": (38, {"depths": (2, 1, 1, 1), "growth": 8}),
    **dict.fromkeys(("vit_tiny", "vit_small"), (32, {"depth": 2, "width": 24, "heads": 3})),
    "dinov2_small": (28, {"depth": 2, "width": 24, "heads": 3}),
}


class Case(NamedTuple):
    """A network to export, with what its file has to give.

    Attributes:
        made: the network.
        images: uint8 [8, height, width, 3].
        probabilities: float64 [8, classes], of the network.
        amplified: the largest logit, after calibration: what float32 rounds in proportion to.
    """

    made: Portable
    images: np.ndarray
    probabilities: np.ndarray
    amplified: float


def small(name: str, classes: int = 5, shape: tuple[int, int] | None = None, **overrides) -> Case:
    """A network of few narrow blocks."""
    config, network = structure(name, classes, shape, **overrides)
    return case(network, Preprocessing.of(config.image), classes, name)


def structure(name: str, classes: int = 5, shape: tuple[int, int] | None = None, **overrides):
    """The config and the structure of a network of few narrow blocks."""
    size, options = SMALL[name]
    shape = shape or (size, size)
    config = settings(**{"model__name": name, "image__size": shape[0], "image__width": shape[1] if shape[1] != shape[0] else 0,
                         "model__channels": (4, 8), "model__dense": (16,), **overrides})  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, functools.partial(models.MODELS[name], **options))
        return config, models.network(config, classes, PLAIN)


def case(network: models.Network, preprocessing: Preprocessing, classes: int, name: str = "") -> Case:
    """A network with weights that are drawn, norms and factors of branches included; its logits differ between images by about 1."""
    rng = np.random.default_rng(0)
    shapes = dict(zip(("params", "stats"), network.shapes, strict=True))
    flat = {path: _drawn(rng, path, leaf.shape) for path, leaf in traverse_util.flatten_dict(shapes).items()}
    arrays = {"params": {}, "stats": {}, **traverse_util.unflatten_dict(flat)}
    images = pictures(8, preprocessing.shape)
    compiled = jax.jit(
        functools.partial(logits_step, network=network), compiler_options={"xla_backend_optimization_level": 0}
    )
    logits = np.asarray(compiled(arrays, images), np.float64)
    largest, mean = np.abs(logits).max(), logits.mean(0).astype(np.float32)
    bias = arrays["params"]["outputs"]["bias"]
    logits, arrays["params"]["outputs"]["bias"] = logits - mean, bias - mean
    readout = metrics.Readout(scale=1 / float(logits.std(0).mean()), intercept=0.3 if classes == 2 else 0.0,
                              threshold=0.4 if classes == 2 else 0.5, positive=1 if classes == 2 else -1)  # fmt: skip
    card = make_card(classes=[f"class {i}" for i in range(classes)], preprocessing=preprocessing, readout=readout, arrays=arrays,
                     network=name)  # fmt: skip
    return Case(Portable.of(network, arrays, card), images, readout.probabilities(logits), readout.scale * float(largest))


def _drawn(rng: np.random.Generator, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    leaf = path[-1]
    if leaf == "matrix":
        return (np.eye(shape[0]) + rng.normal(0, 0.3 / shape[0] ** 0.5, shape)).astype(np.float32)
    if leaf in ("scale", "var", "gamma"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    deviation = float(np.prod(shape[:-1])) ** -0.5 * 1.4 if leaf == "kernel" else 0.2
    return rng.normal(0, deviation, shape).astype(np.float32)


def pictures(count: int, shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    """Smooth drawn images, uint8 [count, height, width, 3]: noise alone looks the same to a network."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize(shape[::-1], Image.Resampling.BICUBIC)) for one in coarse])
