"""Where a network looks: maps of the places that speak for a class, and a check of the maps by covering places."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp

from cnnjax import runtime
from cnnjax.inference.batches import put
from cnnjax.inference.engine import Engine
from cnnjax.models import Network

AT_ONCE = 32  # images of the one shape that is compiled
ALONG = 7  # places along each side that are covered, one after the other
COVER = 0.25  # of each side, the patch that covers a place
BLUR = 0.04  # of each side, standard deviation; a place of the map sees about twice as much of the image
LEAST = 256  # images that the check may always compute


class Explainer:
    """Maps of the places that speak for a class: Grad-CAM with the gradient of each place, which is HiResCAM.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) weighs each channel of the last convolution's map by the mean gradient of the
    class's logit. A network that flattens the map has other gradients at other places. Here each place is weighed by its own (Draelos
    and Carin 2020, arXiv:2011.08891), and the gradient is that of the log-odds, which knows the other classes. Where a network averages
    the map, as residual networks do, weights are the same at all places, as in Grad-CAM. The mean correlation with the drop from
    covering places rose from 0.47 to 0.60 on malaria cells and from 0.12 to 0.65 on flowers (configs/malaria.py, configs/flowers.py).

    Attributes:
        places: rows and columns of the map, before it is enlarged.
        reason: why there are no maps; "" where there are.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self.places, self.reason = _places(engine.network)

    @functools.cached_property
    def _run(self):
        mesh, whole = self._engine.mesh, runtime.replicated(self._engine.mesh)
        return jax.jit(functools.partial(class_map, network=self._engine.network), in_shardings=(None, whole, whole), out_shardings=whole,
                       compiler_options=runtime.compiler_options(runtime.platform_of(mesh)))  # fmt: skip

    def maps(self, images: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Computes one map for each image, on every process the same.

        Args:
            images: uint8 [n, height, width, 3], as the network sees them.
            classes: int [n], for which class the places speak.

        Returns:
            float32 [n, height, width] in [0, 1]: 1 is the place that speaks most for the class, 0 one that does not. All 0 where none does.

        Raises:
            ValueError: `reason` says why.
        """
        if self.reason:
            raise ValueError(self.reason)
        whole, found = runtime.replicated(self._engine.mesh), np.empty(images.shape[:3], np.float32)
        for at in range(0, len(images), AT_ONCE):
            part, called = images[at : at + AT_ONCE], np.asarray(classes[at : at + AT_ONCE], np.int32)
            more = AT_ONCE - len(part)
            padded = np.pad(part, ((0, more), (0, 0), (0, 0), (0, 0))), np.pad(called, (0, more))
            small = np.asarray(self._run(self._engine.model, *put(padded, whole)))
            found[at : at + len(part)] = [_full(one, images.shape[1:3]) for one in small[: len(part)]]
        return found


def class_map(model: dict, images: jax.Array, classes: jax.Array, *, network: Network) -> jax.Array:
    """Computes the places of the last convolution's map that speak for a class; a pure function.

    Args:
        model: {"params", "stats"}.
        images: uint8 [b, height, width, 3].
        classes: int32 [b].
        network: its structure.

    Returns:
        float32 [b, rows, columns], at least 0: the sum over channels of the map times the gradient of the class's log-odds.
    """
    made = nnx.merge(network.eval_def, model["params"], model["stats"])
    features = made.features(images)

    def score(x):
        logits = made.head(x)
        both = logits if logits.shape[1] > 1 else jnp.concatenate([jnp.zeros_like(logits), logits], 1)
        own = jax.nn.one_hot(classes, both.shape[1], dtype=bool)
        return jnp.where(own, both, 0).sum() - jax.nn.logsumexp(jnp.where(own, -jnp.inf, both), axis=1).sum()

    products = jax.grad(score)(features).astype(jnp.float32) * features.astype(jnp.float32)
    return jax.nn.relu(products.sum(-1))


def log_odds(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)) of a class of each image: float [n, outputs], int [n] -> float64 [n]."""
    both = np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else np.array(logits)
    both = both.astype(np.float64)
    own = np.take_along_axis(both, classes[:, None], 1)[:, 0]
    np.put_along_axis(both, classes[:, None], -np.inf, 1)
    return own - logsumexp(both, axis=1)


def stretched(heat: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Brings a map to height and width, bilinear: float32 [h, w] -> [height, width]."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(heat, np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR))


def _full(small: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Blurs and enlarges a map, and divides it by its largest value: float32 [rows, columns] -> [height, width] in [0, 1].

    Behind a max-pool single places have all of the gradient, which as dots would be overlooked.
    """
    large = stretched(gaussian_filter(small, [BLUR * side for side in small.shape]), shape)
    return large / large.max() if large.max() > 0 else np.zeros(shape, np.float32)


def _places(network: Network | None) -> tuple[tuple[int, int], str]:
    """Returns the rows and columns of a network's last map, and why there is none."""
    if network is None:
        return (0, 0), "several networks answer together"
    made = network.model
    if not made.seen:
        return (0, 0), f"{type(made).__name__} has no convolution among its layers, or a __call__ of its own"
    image = jax.ShapeDtypeStruct((1, *made.preprocessing.shape, 3), jnp.uint8)
    shape = jax.eval_shape(lambda p, s, x: nnx.merge(network.eval_def, p, s).features(x), *network.shapes, image).shape
    name = made.layers[made.seen - 1].name
    if len(shape) != 4:
        return (0, 0), f"layer {name} gives {len(shape) - 1} axes for an image, not rows, columns and channels"
    if max(shape[1:3]) == 1:
        return (0, 0), f"of layer {name} one place is left; use a larger --config.image.size"
    return shape[1:3], ""


def agreements(
    engine: Engine, images: np.ndarray, classes: np.ndarray, maps: np.ndarray, batch_size: int
) -> list[float | None]:
    """Compares maps with what covering places does (Zeiler and Fergus 2014, arXiv:1311.2901).

    A patch of `COVER` of each side, of the picture's mean colour, covers `ALONG` x `ALONG` places, one after the other.

    Args:
        engine: network and weights.
        images: uint8 [n, height, width, 3].
        classes: int [n], those of the maps.
        maps: float32 [n, height, width].
        batch_size: that of training.

    Returns:
        For each image the correlation (Pearson) of the drop of the class's log-odds with the mean of the map under the patch; None
        where one of them is the same everywhere.
    """
    boxes = _boxes(images.shape[1:3])
    covered = np.repeat(images, len(boxes) + 1, 0).reshape(len(images), -1, *images.shape[1:])
    for image, views in zip(images, covered, strict=True):
        for view, box in zip(views[1:], boxes, strict=True):
            view[box] = image.mean((0, 1)).round()
    flat = covered.reshape(-1, *images.shape[1:])
    logits = engine.logits_of_rows(flat, np.arange(len(flat)), batch_size)
    odds = log_odds(logits, np.repeat(classes, len(boxes) + 1)).reshape(len(images), -1)
    under = np.array([[heat[box].mean() for box in boxes] for heat in maps], np.float64)
    return [_correlation(drop, mean) for drop, mean in zip(odds[:, :1] - odds[:, 1:], under, strict=True)]


def _boxes(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Returns the places that are covered, row by row."""
    parts = []
    for side in shape:
        patch = max(round(side * COVER), 1)
        parts.append([slice(start, start + patch) for start in np.linspace(0, side - patch, ALONG).round().astype(int)])
    return [(rows, columns) for rows in parts[0] for columns in parts[1]]


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns Pearson's correlation; None where it is not defined."""
    if not (np.isfinite(a).all() and np.ptp(a) > 0 and np.ptp(b) > 0):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def checked(pictures: int, images: int) -> np.ndarray:
    """Returns which of some pictures are checked, so that the check costs at most what evaluating `images` does: int [m], spread evenly."""
    count = min(pictures, max(images, LEAST) // (ALONG**2 + 1))
    return np.unique(np.linspace(0, pictures - 1, count).round().astype(int)) if count else np.arange(0)
