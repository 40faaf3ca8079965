"""ZCA whitening: pixels made uncorrelated, with the smallest change to the image. Fitted on training images only."""

import numpy as np

# Images that are float at a time: 256 * 255 ** 2 is below 2 ** 24, so that float32 holds their sums of products exactly.
CHUNK = 256


def fit(images: np.ndarray, rows: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix, as ImageDataGenerator of Keras 2 fits them: `(x - mean) @ matrix` is white.

    Keras 3 divides by sqrt(variance) + epsilon / sqrt(images) instead of sqrt(variance + epsilon).

    Args:
        images: uint8 [all, h, w, 3].
        rows: of `images` to fit on.
        epsilon: added to the variances, of pixels in [0, 1].

    Returns:
        float32 [h, w, 3] and [h * w * 3, h * w * 3], for pixels in [0, 1].
    """
    size = images[0].size
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(rows), CHUNK):
        x = images[rows[start : start + CHUNK]].reshape(-1, size).astype(np.float32)
        total += x.sum(0, dtype=np.float64)
        products += x.T @ x
    mean = total / len(rows) / 255
    variances, directions = np.linalg.eigh(products / len(rows) / 255**2 - np.outer(mean, mean))
    matrix = (directions / np.sqrt(np.maximum(variances, 0) + epsilon)) @ directions.T
    return mean.reshape(images.shape[1:]).astype(np.float32), matrix.astype(np.float32)
