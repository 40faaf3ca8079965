"""The compiled PNG decoder and resize give Pillow's pixels or leave a file to it; tests/fuzz has sanitizers look at their memory."""

import io
import random
import zlib

import numpy as np
import pytest
from fuzz import pixels as fuzz_pixels
from PIL import Image
from test_images import chunk, noise, png

from cnnjax.data import images, pixels

compiled = pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
BILINEAR = Image.Resampling.BILINEAR


def with_any_filters(rng, height, width):
    rows = rng.integers(0, 256, (height, 3 * width + 1), np.uint8)
    rows[:, 0] = rng.integers(0, 5, height)
    return png(height, width, rows.tobytes())


def same_as_pillow(data) -> bool:
    """Returns whether the file is decoded here; then Pillow must give the same pixels."""
    (found,) = pixels.decode([data])
    if found is not None:
        with images.quiet():
            assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data))))
    return found is not None


@compiled
def test_damaged_files_are_read_as_by_pillow_or_left_to_it():
    rng = random.Random(0)
    assert 200 < sum(same_as_pillow(fuzz_pixels.changed(rng)) for _ in range(1000)) < 800


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 4), (4, 3), (5, 2), (9, 1), (23, 31)])
def test_all_filters_of_png_in_any_order_are_undone(size):
    rng = np.random.default_rng(0)
    assert all(same_as_pillow(with_any_filters(rng, *size)) for _ in range(20))


@compiled
def test_png_that_is_not_whole_is_left_to_pillow():
    rows = bytes(4 * (3 * 5 + 1))
    assert pixels.decode([png(4, 5, rows)])[0].shape == (4, 5, 3)
    checksum = bytearray(zlib.compress(rows))
    checksum[-1] ^= 1
    unknown = b"\5" + rows[1:]
    for data in (png(4, 5, rows[:-1]), png(4, 5, rows + b"\0"), png(4, 5, unknown), png(4, 5, b"", compressed=bytes(checksum)),
                 png(4, 5, b"", compressed=zlib.compress(rows)[:-3]), png(4, 5, rows) + b"x", png(4, 5, rows)[:-12],
                 png(11_000, 11_000, rows)):  # fmt: skip
        assert pixels.decode([data]) == [None]


@compiled
def test_png_in_several_parts():
    rows = bytes([0, *range(15)] * 4)
    whole = zlib.compress(rows)
    parts = b"".join(chunk(b"IDAT", part) for part in (whole[:5], whole[5:9], whole[9:]))
    data = png(4, 5, b"", before=parts, compressed=b"x")
    assert same_as_pillow(data.replace(chunk(b"IDAT", b"x"), b""))


@compiled
@pytest.mark.parametrize("most", [5, 40, 400])
def test_resize_is_pillows_bit_for_bit(most):
    rng = np.random.default_rng(most)
    for _ in range(60):
        (height, width), (to_height, to_width) = rng.integers(1, most, 2).tolist(), rng.integers(1, 300, 2).tolist()
        image = noise(height, width, seed=rng) * rng.choice(np.array([1, 255], np.uint8))
        out = np.empty((to_height, to_width, 3), np.uint8)
        pixels.resize(image, out)
        rows = Image.fromarray(image).resize((to_width, height), BILINEAR)
        assert np.array_equal(out, np.asarray(rows.resize((to_width, to_height), BILINEAR)))


@compiled
def test_resize_takes_rows_with_gaps_and_any_other_layout():
    image = noise(40, 30)
    gaps = np.zeros((40, 97), np.uint8)
    gaps[:, 3:93] = image.reshape(40, 90)
    expected = np.empty((9, 14, 3), np.uint8)
    pixels.resize(image, expected)
    for same in (gaps[:, 3:93].reshape(40, 30, 3), np.asfortranarray(image), np.ascontiguousarray(image[::-1])[::-1]):
        room = np.full((11, 16, 3), 7, np.uint8)
        pixels.resize(same, room[1:10, 1:15])
        assert np.array_equal(room[1:10, 1:15], expected)
        assert (room[0] == 7).all() and (room[10] == 7).all() and (room[:, [0, 15]] == 7).all()
