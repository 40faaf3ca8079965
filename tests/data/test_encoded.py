"""Encoded caches hold files as they are: the same pixels as decoded ones, crops of all detail, and no half-made shard."""

import dataclasses
import errno
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from cnnjax import config as config_lib
from cnnjax.data import cache, duplicates, encoded, sources
from cnnjax.data import images as images_lib
from cnnjax.data.crops import Crop
from cnnjax.errors import DataError, Stopped
from cnnjax.progress import Progress


def opened(folder, directory, kind="encoded", stop=lambda: False, **image):
    config = config_lib.from_dict({}, {"data.path": folder, "data.max_bad_fraction": 0.5})
    how = config_lib.Preprocessing(**{"size": 20, "resize": "bilinear", **image})
    return cache.build(sources.open_source(config.data, Progress()), how, directory, Progress(), kind=kind, stop=stop)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG and PNG files of many sizes, a turned one, a copy of one and a damaged one."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(80):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        height, width = random.integers(40, 90, 2)
        rough = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        exif = Image.Exif()
        if i == 7:
            exif[0x0112] = 6
        rough.save(folder / "ab"[i % 2] / f"{i:02}.{'png' if i % 5 == 0 else 'jpg'}", exif=exif)
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "00.png").read_bytes())
    (folder / "b" / "damaged.jpg").write_bytes((folder / "b" / "01.jpg").read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def both(photos, tmp_path_factory):
    directory = tmp_path_factory.mktemp("caches")
    return [opened(photos, directory, kind) for kind in ("encoded", "decoded")], directory


def test_the_pixels_and_facts_are_those_of_a_decoded_cache(both):
    (ours, theirs), _ = both
    assert ours.images.shape == theirs.images.shape == (82, 20, 20, 3)
    np.testing.assert_array_equal(ours.images[:], theirs.images)
    assert {name: list(column) for name, column in ours.facts.items()} == {
        name: list(column) for name, column in theirs.facts.items()
    }
    assert sum(map(bool, ours.facts["reason"])) == 1 and ours.key == theirs.key


@pytest.mark.parametrize(
    "index",
    [5, np.int64(5), slice(70, None, 3), [4, 4, 1], np.arange(82) % 9 == 0, (3, 7), (slice(2, 4), slice(None, None, 2)), []],
)
def test_an_index_is_that_of_an_array(both, index):
    (ours, theirs), _ = both
    index = np.array([], int) if isinstance(index, list) and not index else index
    np.testing.assert_array_equal(ours.images[index], theirs.images[index])


def test_all_of_them_at_once_are_refused(both):
    with pytest.raises(TypeError, match="may not fit in memory"):
        np.asarray(both[0][0].images)


def test_one_cache_is_that_of_every_size(photos, both):
    _, directory = both
    other = opened(photos, directory, size=33, resize="pad")
    assert not other.built and other.images.shape[1:] == (33, 33, 3) and other.key != both[0][0].key
    assert len(list((directory / "encoded").iterdir())) == 1


def test_copies_of_a_picture_are_found_without_decoding(both):
    (ours, theirs), _ = both
    rows = np.flatnonzero([not reason for reason in ours.facts["reason"]])
    found = duplicates.find(ours.images, rows).same
    assert len(found.pairs) == 1 and found.kind[0] == 0
    larger = duplicates.find(theirs.images, rows).same  # of 20 pixels: exact ones alone
    np.testing.assert_array_equal(larger.pairs, found.pairs)
    assert larger.note


def test_grey_files_of_many_bits_have_the_levels_of_their_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * (i + 3)).save(
                tmp_path / "x" / name / f"{i}.png"
            )
    ours, theirs = (opened(tmp_path / "x", tmp_path / "cache", kind, range=(0.0, 2000.0)) for kind in ("encoded", "decoded"))
    np.testing.assert_array_equal(ours.images[:], theirs.images)
    assert ours.images[:].max() >= 250


@pytest.mark.parametrize("what", ["a shard", "the list", "the places"])
def test_a_cache_that_was_cut_short_is_made_again(photos, tmp_path, what):
    opened(photos, tmp_path)
    (folder,) = (tmp_path / "encoded").iterdir()
    path = {
        "a shard": next(folder.glob("*.array_record")),
        "the list": folder / "sizes.json",
        "the places": folder / "places.npy",
    }[what]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert opened(photos, tmp_path).built and not opened(photos, tmp_path).built


def test_a_flipped_bit_is_one_line(photos, tmp_path):
    images = opened(photos, tmp_path).images
    (folder,) = (tmp_path / "encoded").iterdir()
    for path in folder.glob("*.array_record"):
        content = bytearray(path.read_bytes())
        content[200:400] = bytes(255 - b for b in content[200:400])
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"the encoded images in {folder} are damaged .*delete this folder") as error:
        images[:]
    assert "\n" not in str(error.value)


def test_a_stop_leaves_nothing(photos, tmp_path):
    with pytest.raises(Stopped):
        opened(photos, tmp_path, stop=lambda: True)
    assert list((tmp_path / "encoded").iterdir()) == []


class FullDisk:
    """A writer of a disk without space; says so as the real one does."""

    def __init__(self, *_):
        pass

    def write(self, content):
        raise RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing x.array_record; at byte 61440")

    def close(self):
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "ArrayRecordWriter", FullDisk)
    with pytest.raises(
        DataError,
        match=r"^no space left for encoded images in .*; name a directory with room with --config.data.cache_dir=DIR$",
    ):
        opened(photos, tmp_path)
    assert list((tmp_path / "encoded").iterdir()) == []


def test_each_shard_is_a_sample_and_a_row_keeps_its_shard():
    shards = encoded.shards_of(1000)
    assert np.bincount(shards, minlength=32).min() >= 31 and np.bincount(shards).max() <= 32
    np.testing.assert_array_equal(encoded.shards_of(100), shards[:100])


# Crops


def test_windows_are_inside_and_of_the_asked_areas_and_ratios():
    crop, random = Crop(0.25, 4 / 3), np.random.default_rng(0)
    windows = np.array([crop.window(row, 300, 400) for row in crop.draw(random, 2000)])
    top, left, height, width = windows.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()
    areas, ratios = height * width / 120_000, width / height
    assert 0.24 < areas.min() < 0.27 and areas.max() > 0.9 and 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.35
    free = top / np.maximum(300 - height, 1)
    assert abs(free[height < 250].mean() - 0.5) < 0.03


def test_an_image_that_no_window_fits_gives_its_middle():
    crop = Crop(0.9, 1.1)
    window = crop.window(crop.draw(np.random.default_rng(0), 1)[0], 40, 400)
    assert window == (0, 178, 40, 44)


def jpeg(height, width):
    """A picture whose red tells the row and whose green tells the column."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "jpeg", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("method", ["bilinear", "pad", "bicubic"])
@pytest.mark.parametrize("shape", [(64, 96), (640, 960)])
def test_a_crop_shows_its_window_also_where_the_file_is_decoded_smaller(shape, method):
    top, left, height, width = (side * part // 16 for side, part in zip((*shape, *shape), (4, 2, 8, 12), strict=True))
    out = np.empty((24, 24, 3), np.uint8)
    images_lib.decode_cropped(jpeg(*shape), (24, 24), method, lambda *size: (top, left, height, width), out)
    edges = np.array([out[0, :, 0].mean(), out[-1, :, 0].mean(), out[:, 0, 1].mean(), out[:, -1, 1].mean()])
    np.testing.assert_allclose(edges, 255 * np.array([4, 12, 2, 14]) / 16, atol=8)


def test_crops_are_those_of_pillow_where_nothing_is_scaled(both):
    (ours, _), directory = both
    record = json.loads((next((directory / "encoded").iterdir()) / "sizes.json").read_text())
    assert len(record) == encoded.SHARDS
    crop = Crop(0.3, 1.3)
    drawn = crop.draw(np.random.default_rng(1), 1)
    found = ours.images.crops(np.array([0]), crop, drawn)[0]  # a PNG file
    whole = dataclasses.replace(config_lib.Preprocessing(size=20, resize="bilinear"))
    content = ours.images.file(0)
    pixels = images_lib.decode(content)
    top, left, height, width = crop.window(drawn[0], *pixels.shape[:2])
    cut = Image.fromarray(pixels[top : top + height, left : left + width])
    expected = cut.resize(whole.shape[::-1], Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1
