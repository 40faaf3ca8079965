"""The statistics of pixels, compiled and in NumPy."""

import numpy as np
import pytest

from cnnjax.data import pixel_statistics, pixels
from cnnjax.data.pixel_statistics import PART


@pytest.fixture(params=["compiled", "NumPy"])
def by(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(pixels, "available", lambda: False)
    elif not pixels.available():
        pytest.skip("cnnjax.data.pixels is not compiled")


@pytest.mark.parametrize("shape", [(13, 17), (3, 3), (5, 4), (8, 200)])
def test_the_statistics_are_those_of_their_names(by, shape):
    height, width = shape
    images = np.random.default_rng(0).integers(0, 256, (PART + 6, *shape, 3), np.uint8)
    found = pixel_statistics(images)
    assert found.shape == (PART + 6, 18) and found.dtype == np.float64
    for row in (0, PART + 5):
        x = images[row] / 255
        step = np.diff(x @ (0.299, 0.587, 0.114), axis=1)
        border, middle = (
            np.concatenate([x[:3], x[-3:]]),
            x[height // 4 : height - height // 4, width // 4 : width - width // 4],
        )
        covariance = np.cov(x.reshape(-1, 3).T, bias=True)
        expected = [*x.mean((0, 1)), *x.std((0, 1)), np.abs(step).mean(), np.sqrt((step**2).mean()), np.abs(np.diff(step, axis=1)).mean(),
                    *middle.mean((0, 1)), *border.mean((0, 1)), covariance[0, 1], covariance[0, 2], covariance[1, 2]]  # fmt: skip
        assert found[row] == pytest.approx(expected, abs=1e-6)


def test_black_and_white_images_and_parts_of_larger_ones(by):
    black, white = (pixel_statistics(np.full((1, 4, 4, 3), level, np.uint8))[0] for level in (0, 255))
    assert black == pytest.approx(np.zeros(18), abs=1e-6)
    assert white == pytest.approx(
        np.isin(np.arange(18), [0, 1, 2, *range(9, 15)]).astype(float), abs=1e-3
    )  # a root of rounding in NumPy
    images = np.random.default_rng(1).integers(0, 256, (6, 9, 8, 3), np.uint8)
    assert np.array_equal(pixel_statistics(images[::2, :, 1:-1]), pixel_statistics(images[::2, :, 1:-1].copy()))
    assert pixel_statistics(images[:0]).shape == (0, 18)


@pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
def test_sums_of_large_images_do_not_overflow():
    images = np.random.default_rng(0).integers(250, 256, (1, 3, 70_000, 3), np.uint8)
    found, x = pixel_statistics(images)[0], images / 255
    assert found[:6] == pytest.approx([*x.mean((0, 1, 2)), *x.std((0, 1, 2))], abs=1e-6)
