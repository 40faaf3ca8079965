"""Tiny networks of every row of `MODELS`, with drawn weights, ready to export."""

import functools
from typing import Any

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


def small(name: str, classes: int = 5, shape: tuple[int, int] | None = None, **overrides) -> Portable:
    """A network of few narrow blocks, whose logits of `pictures` have a deviation of about 1."""
    size, options = SMALL[name]
    shape = shape or (size, size)
    config = settings(**{"model__name": name, "image__size": shape[0], "image__width": shape[1] if shape[1] != shape[0] else 0,
                         "model__channels": (4, 8), "model__dense": (16,), **overrides})  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, functools.partial(models.MODELS[name], **options))
        network = models.network(config, classes, PLAIN)
    return portable(network, Preprocessing.of(config.image), classes)


def portable(network: models.Network, preprocessing: Preprocessing, classes: int, seed: int = 0) -> Portable:
    """A network with weights that are drawn, norms and factors of branches included."""
    rng = np.random.default_rng(seed)
    shapes = dict(zip(("params", "stats"), network.shapes, strict=True))
    flat = {path: _drawn(rng, path, leaf.shape) for path, leaf in traverse_util.flatten_dict(shapes).items()}
    arrays = traverse_util.unflatten_dict(flat)
    arrays = {"params": arrays["params"], "stats": arrays.get("stats", {})}
    logits = raw_logits(network, arrays, pictures(8, preprocessing.shape))
    arrays["params"]["outputs"]["bias"] -= logits.mean(0)
    readout = metrics.Readout(scale=1 / float(logits.std(0).mean()), intercept=0.3 if classes == 2 else 0.0, threshold=0.4 if classes == 2 else 0.5,
                              positive=1 if classes == 2 else -1)  # fmt: skip
    names = [f"class {i}" for i in range(classes)]
    card = make_card(classes=names, preprocessing=preprocessing, readout=readout, arrays=arrays)
    return Portable.of(network, arrays, card)


def _drawn(rng: np.random.Generator, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    leaf = path[-1]
    if leaf == "matrix":
        return (np.eye(shape[0]) + rng.normal(0, 0.3 / shape[0] ** 0.5, shape)).astype(np.float32)
    if leaf in ("scale", "var", "gamma"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    deviation = float(np.prod(shape[:-1])) ** -0.5 * 1.4 if leaf == "kernel" else 0.2
    return rng.normal(0, deviation, shape).astype(np.float32)


def raw_logits(network: models.Network, arrays: dict, images: np.ndarray) -> np.ndarray:
    """The network's own logits, float32 [n, outputs]."""
    compiled = jax.jit(
        functools.partial(logits_step, network=network), compiler_options={"xla_backend_optimization_level": 0}
    )
    return np.asarray(compiled(arrays, images))


def expected(made: Portable, images: np.ndarray) -> np.ndarray:
    """The probabilities that its file has to give, float64 [n, classes]."""
    card = made.card
    readout = metrics.Readout(scale=card.scale, intercept=card.intercept)
    return readout.probabilities(raw_logits(made.network, made.arrays, images))


def pictures(count: int, shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    """Smooth drawn images, uint8 [count, height, width, 3]: noise alone looks the same to a network."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize(shape[::-1], Image.Resampling.BICUBIC)) for one in coarse])
