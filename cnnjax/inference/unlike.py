"""Images unlike those of the training, known by 18 statistics of their pixels; in NumPy, on the network's input.

The distance is Mahalanobis'. Features of the network are not used: foreign images look more typical to them than the images that
the network knows. A self-check says what is caught: photos vary so much that hardly anything is unlike them.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cnnjax.data import Dataset
from cnnjax.errors import CheckpointError
from cnnjax.progress import Progress
from cnnjax.runs import QUANTILE, STATISTICS, RunDirectory, Typical

PART = 64  # images at once, which stay in the processor's caches
PIXELS, FEWEST = 2**25, 1000  # pixels of training images that are looked at, and images where these are large
TRAIN, VAL = 2 * STATISTICS, 50  # fewest images for a covariance, and for a threshold
PROBED = 200  # validation images of a probe
RIDGE = 1e-3  # of the mean variance, added to each
BORDER = 3  # rows at the top and at the bottom
MOST = 1e6  # a distance that needs no more digits
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Images = np.ndarray  # uint8 [n, height, width, 3]


def statistics(images: Images) -> np.ndarray:
    """Returns float64 [n, 18] of uint8 [n, h, w, 3], in units of 255 levels.

    Means and standard deviations of the channels; of luma along rows the mean difference of neighbours, its root mean square, and the
    mean second difference; means of the middle quarter and of the top and bottom three rows; covariances of red and green, red and
    blue, green and blue. The root mean square beside the mean tells blurred images: of the cells it catches all, and .06 without.
    """
    return np.concatenate(
        [_statistics(images[at : at + PART]) for at in range(0, len(images), PART)] or [np.empty((0, STATISTICS))]
    )


def _statistics(images: Images) -> np.ndarray:
    height, width = images.shape[1:3]
    x = images.astype(np.float32) / np.float32(255)
    flat = x.reshape(len(x), -1, 3)
    mean = _mean(x)
    products = np.matmul(flat.transpose(0, 2, 1), flat) / flat.shape[1] - mean[:, :, None] * mean[:, None, :]
    spread, mixed = np.sqrt(np.maximum(np.diagonal(products, axis1=1, axis2=2), 0)), products[:, [0, 0, 1], [1, 2, 2]]
    steps = np.diff(x @ LUMA, axis=2)[..., None]
    edges = _mean(np.abs(steps)), np.sqrt(_mean(steps * steps)), _mean(np.abs(np.diff(steps, axis=2)))
    middle = _mean(x[:, height // 4 : height - height // 4, width // 4 : width - width // 4])
    border = _mean(np.concatenate([x[:, :BORDER], x[:, -BORDER:]], 1))
    return np.concatenate([mean, spread, *edges, middle, border, mixed], 1).astype(np.float64)


def _mean(x: np.ndarray) -> np.ndarray:
    """Returns the mean of each channel, [n, c], of float32 [n, h, w, c]; as a product of matrices it takes a fifth of the time."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    return np.matmul(np.full((1, flat.shape[1]), 1 / flat.shape[1], np.float32), flat)[:, 0]


def unlike(typical: Typical) -> Callable[[Images], np.ndarray]:
    """Returns what tells how unlike the training images others are.

    Args:
        typical: of the training images.

    Returns:
        uint8 [n, h, w, 3] -> float64 [n], the squared distance over its threshold: above 1 is one validation image in a hundred.

    Raises:
        CheckpointError: its covariance is not of any images.
    """
    covariance = np.zeros((STATISTICS, STATISTICS))
    covariance[np.triu_indices(STATISTICS)] = typical.covariance
    try:
        whitening = np.linalg.inv(np.linalg.cholesky(covariance + np.triu(covariance, 1).T)).T
    except np.linalg.LinAlgError:
        raise CheckpointError(
            "typical.json holds a covariance that no images have; restore it, or remove it to predict without"
        ) from None
    mean = np.array(typical.mean)

    def ratio(images: Images) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # a stranger's numbers may be extreme
            apart = np.square((statistics(images) - mean) @ whitening).sum(1) / typical.threshold
        return np.nan_to_num(np.minimum(apart, MOST), nan=MOST)

    return ratio


def fit_typical(train: Images, val: Images) -> Typical:
    """Fits the distribution on training images, the threshold on validation images, and checks what it tells apart."""
    measured = statistics(train)
    covariance = np.cov(measured, rowvar=False)
    covariance += (RIDGE * np.trace(covariance) / STATISTICS + 1e-12) * np.eye(STATISTICS)  # images may be all the same
    upper = covariance[np.triu_indices(STATISTICS)].tolist()
    fitted = {
        "images": len(train),
        "validation": len(val),
        "mean": tuple(measured.mean(0).tolist()),
        "covariance": tuple(upper),
    }
    apart = unlike(Typical(**fitted, threshold=1.0, caught={}))
    threshold = max(float(np.quantile(apart(val), QUANTILE)), 1e-12)
    some = val[np.linspace(0, len(val) - 1, min(PROBED, len(val))).astype(int)]
    changed = {name: made for name, probe in PROBES.items() if not np.array_equal(made := probe(some), some)}
    return Typical(**fitted, threshold=threshold, caught={
        name: round(float((apart(images) > threshold).mean()), 4) for name, images in changed.items()
    })  # fmt: skip


def _noisy(images: Images) -> Images:
    noise = np.random.default_rng(0).normal(0, 40, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def _grey(images: Images) -> Images:
    return np.repeat((images @ LUMA)[..., None], 3, -1).round().astype(np.uint8)


def _digits(images: Images) -> Images:
    """Handwritten digits in place of the images: scikit-learn's, 8 x 8 pixels of 17 levels, enlarged."""
    from sklearn.datasets import load_digits

    digits, shape = load_digits().images[: len(images)], images.shape[1:3]
    large = zoom(digits * (255 / 16), (1, shape[0] / 8, shape[1] / 8), order=1)
    return np.repeat(np.clip(large, 0, 255).astype(np.uint8)[..., None], 3, -1)


# Name in the report -> images that ought to be unlike the training's, made of validation images.
PROBES: dict[str, Callable[[Images], Images]] = {
    "inverted": lambda images: 255 - images,
    "blurred by 2 pixels": lambda images: gaussian_filter(images, (0, 2, 2, 0)),
    "noise of 40 levels": _noisy,
    "darkened to 0.4": lambda images: (images * 0.4).astype(np.uint8),
    "without colour": _grey,
    "red and blue exchanged": lambda images: images[..., ::-1],
    "noise alone": lambda images: np.random.default_rng(0).integers(0, 256, images.shape, np.uint8),
    "handwritten digits": _digits,
}


def write_typical(run: RunDirectory, data: Dataset, progress: Progress) -> None:
    """Writes `typical.json` of a run, from its training and validation images; says why not where they are too few.

    Of many images some are looked at, evenly spaced.
    """
    most = max(PIXELS // math.prod(data.images.shape[1:3]), FEWEST)
    train, val = (
        rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        for rows in map(data.splits.get, ("train", "val"))
    )
    if len(train) < TRAIN or len(val) < VAL:
        progress.message(f"  {len(train)} training and {len(val)} validation images are too few to tell which others are unlike them (it takes "
                         f"{TRAIN} and {VAL}): prediction will not warn")  # fmt: skip
        return
    run.write_json(run.typical, fit_typical(data.images[train], data.images[val]).to_dict())
