"""The page of the data: counts, pictures, and the images that training will see."""

import importlib

import jax
import numpy as np
import pytest
from page_tools import text
from PIL import Image
from training_tools import settings, tiny

import cnnjax
from cnnjax import augmentation, runtime, training
from cnnjax.data import dataset, splits
from cnnjax.errors import Stopped
from cnnjax.progress import Progress

explore_module = importlib.import_module("cnnjax.commands.explore")


def test_explore_can_be_stopped(two, tmp_path):
    with pytest.raises(Stopped, match="the same command starts it again"):
        cnnjax.explore(two.config, tmp_path, stop=lambda: True)
    assert not (tmp_path / "explore.html").exists()


def test_explore_counts_what_the_split_holds(two, explored):
    data = dataset.prepare(two.config, two.workdir, Progress(), freeze=False)
    words = text(explored.two)
    for label, name in enumerate(data.classes):
        counts = [int((data.labels[data.splits[s]] == label).sum()) for s in splits.NAMES]
        assert " ".join([name, *map(str, counts), str(sum(counts))]) in words
    assert "12 groups" in words and "8 to 8 images" in words and "PNG RGB 96" in words


def test_explore_writes_each_picture_as_png(explored):
    folder = explored.two.parent / "explore"
    names = {path.stem for path in folder.glob("*.png")}
    assert {"classes", "groups", "width", "height", "aspect", "photos-Parasitized", "seen-Uninfected", "channels", "means",
            "colours-Parasitized", "first-batch", "augmented-Uninfected", "alone-rotation", "alone-stain",
            "processing-Parasitized"} <= names  # fmt: skip
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 100


def test_explore_changes_nothing_that_a_run_depends_on(explored):
    assert sorted(path.name for path in explored.two.parent.iterdir()) == ["explore", "explore.html"]


def test_explore_shows_the_tensors_of_step_0(explored, tmp_path):
    """Compares the pictures of the first batch with the images that a training step hands to the network."""
    config = explored.config
    data = dataset.prepare(config, tmp_path, Progress(), freeze=False)
    samples = explore_module.collect_samples(data, config.seed)
    shown = explore_module.collect_augmented(config, data, samples)
    batch = training.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=config.data.batch_size,
                                  seed=config.seed)[0]  # fmt: skip
    images, targets = training.compile_augmentation(config, runtime.ops(config.runtime, "cpu"))(np.int32(0), batch)
    for i, photo in enumerate(shown.first_batch):
        assert np.abs(photo.pixels.astype(float) - np.asarray(images[i])).max() <= 0.5001
        assert photo.caption == data.classes[int(targets.labels[i])]
    assert len(shown.first_batch) == config.data.batch_size
    assert shown.alone.keys() == augmentation.extremes(config.augment).keys()
    assert shown.repeated.keys() == {sample.name for sample in samples} == set(data.classes)


def test_every_operation_that_is_on_is_shown_alone_and_does_something():
    on = dict(flip_horizontal=True, flip_vertical=True, turns=True, rotation=30.0, zoom=0.2, stretch=0.2, shear=10.0, shift=0.1,
              crop_area=0.5, pad_crop=3, brightness=0.2, contrast=0.2, saturation=0.3, grey=0.5, hue=0.1, gamma=0.3, stain=0.1,
              channel_shift=20.0, blur=1.5, noise=9.0, erase=0.5, cutout=0.4)  # fmt: skip
    config = settings(**{f"augment__{key}": value for key, value in on.items()}).augment
    shown = augmentation.extremes(config)
    assert shown.keys() == on.keys()
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    for name, ends in shown.items():
        for label, numbers in ends:
            out = np.asarray(augmentation.apply(image, numbers, config, jax.random.key(0)))
            assert np.abs(out - image).mean() > 0.5, (name, label)


def test_explore_warns_of_what_spoils_a_result(make_folder, cache, tmp_path):
    folder = make_folder(tmp_path / "uneven", ("many", "few"), 30, size=(60, 24))
    for path in sorted((folder / "few").iterdir())[7:]:
        path.unlink()
    config = tiny(folder, cache, split__method="stratified", data__positive="", image__size=40)
    words = text(cnnjax.explore(config, tmp_path / "out"))
    assert "The classes are uneven: many has 30 images, few 7" in words
    assert "are distorted by more than a quarter" in words and "are smaller than the 40×40 pixels" in words
    assert "groups in more than one split" in words
    assert "Augmentation is off" in words
