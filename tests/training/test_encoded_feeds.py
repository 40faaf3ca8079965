"""Batches of encoded images: one order for any number of processes, each of which reads its own shards; crops by seed and step."""

import numpy as np
import pytest
import training_tools  # noqa: F401 - strict ranks
from PIL import Image

from cnnjax import config as config_lib
from cnnjax.config import from_dict
from cnnjax.data import SHARDS, Crop, cache, sources
from cnnjax.progress import Progress
from cnnjax.training.feeds import TrainBatches, dealt

CROP = Crop(0.3, 4 / 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """150 images of 12 pixels, of one colour each: red is the number."""
    folder = tmp_path_factory.mktemp("encoded")
    for i in range(150):
        (folder / "files" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 12, 3), i, np.uint8)
        pixels[..., 1] = np.arange(12) * 20
        Image.fromarray(pixels).save(folder / "files" / "ab"[i % 2] / f"{i:03}.png")
    source = sources.open_source(from_dict({}, {"data.path": folder / "files"}).data, Progress())
    how = config_lib.Preprocessing(size=12, resize="bilinear")
    return cache.build(source, how, folder / "cache", Progress(), kind="encoded").images


def batches(images, batch_size=16, **more):
    labels, rows = np.arange(len(images), dtype=np.int32), np.arange(10, 150)
    return TrainBatches(images, labels, rows, batch_size=batch_size, seed=3, **more)


@pytest.mark.parametrize("batch_size", [16, 24, 15])
def test_each_epoch_has_every_image_once_and_its_own_order(images, batch_size):
    feed = batches(images, batch_size=batch_size)
    places = np.concatenate([feed.places(k, 1)[0] for k in range(3 * 140 // batch_size + 1)])[: 3 * 140].reshape(3, 140)
    assert all(sorted(epoch) == list(range(140)) for epoch in places)
    assert len({tuple(epoch) for epoch in places}) == 3


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("crop", [None, CROP])
def test_the_global_batch_is_the_same_array_for_any_number_of_processes(images, count, crop):
    whole = batches(images, crop=crop)
    for k in (0, 8, 21):
        parts = [batches(images, crop=crop, process_index=i, process_count=count)[k] for i in range(count)]
        for name in ("image", "label"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[k][name])


@pytest.mark.parametrize("count, least", [(2, 0.9), (4, 0.8)])
def test_a_process_reads_its_own_shards(images, count, least):
    """But for the few images that make the parts equal; of a small set these are more."""
    for process in range(count):
        feed = batches(images, process_index=process, process_count=count)
        shards = np.concatenate([images.shards[feed._rows[feed.places(k, 1)[0]]] for k in range(26)])
        assert (shards.astype(int) * count // SHARDS == process).mean() > least


def test_of_a_large_set_nearly_all_images_are_of_the_own_shards():
    random = np.random.default_rng(0)
    drawn = random.permutation(200_000)
    parts, wanted = random.integers(0, 64, 200_000), np.arange(200_000) * 64 // 200_000
    order = dealt(random, drawn, parts, wanted)
    assert sorted(order) == list(range(200_000))
    part_of = np.empty(200_000, int)
    part_of[drawn] = parts
    assert (part_of[order] == wanted).mean() > 0.98


def test_crops_differ_between_epochs_and_come_again_with_the_seed(images):
    feed, again = batches(images, crop=CROP), batches(images, crop=CROP)
    np.testing.assert_array_equal(feed[30]["image"], again[30]["image"])
    whole = batches(images)[30]["image"]
    assert (feed[30]["image"][..., 0] == whole[..., 0]).all(), "the same images"
    assert (feed[30]["image"] != whole).any((1, 2, 3)).mean() > 0.8
    first = {label: image for k in range(9) for label, image in zip(*map(feed[k].get, ("label", "image")), strict=True)}
    later = {label: image for k in range(9, 17) for label, image in zip(*map(feed[k].get, ("label", "image")), strict=True)}
    assert np.mean([not np.array_equal(first[label], later[label]) for label in first.keys() & later.keys()]) > 0.8
