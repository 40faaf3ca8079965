"""Images unlike those of the training, known by 18 statistics of their pixels, of the network's input.

The distance is Mahalanobis'. Features of the network are not used: foreign images look more typical to them than the images that
the network knows. The root mean square of luma's steps beside their mean tells blurred images: of the cells it catches all, and .06
without. A self-check says what is caught: photos vary so much that hardly anything is unlike them.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cnnjax.data import Dataset, pixel_statistics
from cnnjax.errors import CheckpointError
from cnnjax.progress import Progress
from cnnjax.runs import QUANTILE, STATISTICS, RunDirectory, Typical

PIXELS, FEWEST = 2**25, 1000  # pixels of training images that are looked at, and images where these are large
TRAIN, VAL = 2 * STATISTICS, 50  # fewest images for a covariance, and for a threshold
PROBED = 200  # validation images of a probe
RIDGE = 1e-3  # of the mean variance, added to each
MOST = 1e6  # a distance that needs no more digits
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Images = np.ndarray  # uint8 [n, height, width, 3]


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
            apart = np.square((pixel_statistics(images) - mean) @ whitening).sum(1) / typical.threshold
        return np.fmin(apart, MOST)  # of NaN and a number the number

    return ratio


def fit_typical(train: Images, val: Images) -> Typical:
    """Fits the distribution on training images, the threshold on validation images, and checks what it tells apart."""
    measured = pixel_statistics(train)
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
