"""Batches: their order is a pure function of seed and step, for any number of processes; their way to the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_tools  # noqa: F401 - strict ranks

from cnnjax import inference, runtime
from cnnjax.training import feeds as pipeline

IMAGES = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
LABELS = np.arange(30, dtype=np.int32)
ROWS = np.arange(3, 30)  # 27 training images


def batches(batch_size=8, seed=0, **process):
    return pipeline.TrainBatches(IMAGES, LABELS, ROWS, batch_size=batch_size, seed=seed, **process)


def test_each_epoch_has_every_image_once_and_its_own_order():
    seen = np.concatenate([batches()[k]["label"] for k in range(27)])  # 216 positions: 8 epochs
    epochs = seen.reshape(8, 27)
    assert all(sorted(epoch) == list(ROWS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_image_and_label_belong_together():
    batch = batches()[5]
    assert batch["image"].shape == (8, 2, 2, 3) and batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    assert np.array_equal(batch["image"][:, 0, 0, 0], batch["label"])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_global_batch_is_the_same_array_for_any_number_of_processes(count):
    for k in (0, 3, 11):
        parts = [batches(process_index=i, process_count=count)[k] for i in range(count)]
        assert np.array_equal(np.concatenate([p["label"] for p in parts]), batches()[k]["label"])


UNEVEN = np.repeat(np.int32([0, 1, 2]), (3, 20, 7))  # of which rows 3 to 29 have 0, 20 and 7


def test_balanced_epochs_have_every_class_as_often_and_are_as_long():
    rows = np.delete(np.arange(30), 2)  # 2, 20 and 7 images
    feed = pipeline.TrainBatches(IMAGES, UNEVEN, rows, batch_size=29, seed=0, balanced=True)
    for k in range(4):
        seen, places = feed[k]["label"], feed.places(k, 1)[0]
        assert sorted(np.bincount(seen)) == [9, 10, 10]
        for label in range(3):
            often = np.bincount(places, minlength=29)[UNEVEN[rows] == label]
            assert often.max() - often.min() <= 1, "each image of a class as often as any other, or once more"
    assert not np.array_equal(feed.places(0, 1), feed.places(1, 1))
    again = pipeline.TrainBatches(IMAGES, UNEVEN, rows, batch_size=29, seed=0, balanced=True)
    assert np.array_equal(feed.places(2, 1), again.places(2, 1))


def test_a_class_without_training_images_has_no_share():
    feed = pipeline.TrainBatches(IMAGES, UNEVEN, ROWS, batch_size=27, seed=0, balanced=True)
    assert sorted(np.bincount(feed[0]["label"], minlength=3)) == [0, 13, 14]


def test_weights_of_classes_come_with_their_images():
    weights = np.float32([5, 0.5, 1])
    feed = pipeline.TrainBatches(IMAGES, UNEVEN, ROWS, batch_size=8, seed=0, weights=weights)
    batch = feed[3]
    assert batch["weight"].dtype == np.float32 and np.array_equal(batch["weight"], weights[batch["label"]])
    resident = feed.on_devices(runtime.replicated(runtime.mesh()))
    assert np.array_equal(resident["weight"], weights[UNEVEN[ROWS]])


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="8 does not divide among 3 processes"):
        batches(process_index=0, process_count=3)


def test_a_batch_may_be_larger_than_the_set():
    labels = batches(batch_size=64)[0]["label"]
    assert len(labels) == 64 and sorted(labels[:27]) == list(ROWS)


def test_seeds_give_other_orders():
    assert np.array_equal(batches()[0]["label"], batches()[0]["label"])
    assert not np.array_equal(batches()[0]["label"], batches(seed=1)[0]["label"])


def test_an_iterator_goes_on_where_its_state_says():
    iterator = pipeline.iterate(batches())
    for _ in range(5):
        next(iterator)
    other = pipeline.iterate(batches())
    other.set_state(iterator.get_state())
    assert np.array_equal(next(other)["label"], batches()[5]["label"])
    assert np.array_equal(next(iterator)["label"], batches()[5]["label"])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_has_each_row_once_in_order_and_zeros_at_the_end(count):
    rows = np.array([9, 4, 7, 1, 2, 20, 25, 3, 11, 12, 13])
    parts = [inference.EvalBatches(IMAGES, rows, batch_size=8, process_index=i, process_count=count) for i in range(count)]
    got = np.concatenate([np.concatenate([p[k] for p in parts]) for k in range(len(parts[0]))])[:, 0, 0, 0]
    assert len(parts[0]) == 2 and np.array_equal(got[:11], rows) and not got[11:].any()


# Positions and devices


def train_batches(count, batch_size=8):
    images = np.zeros((200, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    rows = np.arange(100, 100 + count)
    return pipeline.TrainBatches(images, np.arange(200, dtype=np.int32), rows, batch_size=batch_size, seed=3)


@pytest.mark.parametrize("images, batch_size", [(64, 8), (5, 8), (8, 8), (61, 1)])
def test_every_image_comes_exactly_once_per_epoch_whatever_the_batch(images, batch_size):
    batches = train_batches(images, batch_size)
    labels = np.concatenate([batches[k]["label"] for k in range(-(-3 * images // batch_size))])
    for epoch in range(3):
        assert sorted(labels[epoch * images : (epoch + 1) * images]) == list(range(100, 100 + images))


def test_a_batch_is_a_pure_function_of_its_number():
    batches, fresh = train_batches(61), train_batches(61)
    forward = [batches[k]["label"].tolist() for k in range(30)]
    assert [fresh[k]["label"].tolist() for k in reversed(range(30))] == forward[::-1]


def test_the_state_of_an_iterator_is_its_next_index():
    iterator = pipeline.iterate(train_batches(61))
    assert iterator.get_state() == {"next_index": 0}
    for _ in range(11):
        next(iterator)
    assert iterator.get_state() == {"next_index": 11}
    resumed = pipeline.iterate(train_batches(61))
    resumed.set_state({"next_index": 11})
    ours, theirs = ([next(i)["label"].tolist() for _ in range(5)] for i in (iterator, resumed))
    assert ours == theirs and theirs[0] == train_batches(61)[11]["label"].tolist()
    assert resumed.get_state() == {"next_index": 16}


def test_put_keeps_values_and_divides_along_the_batch():
    sharding = runtime.batched(runtime.mesh())
    batch = train_batches(61)[0]
    placed = pipeline.put(batch, sharding)
    assert isinstance(placed["image"], jax.Array) and placed["image"].dtype == jnp.uint8
    assert placed["image"].sharding == sharding
    np.testing.assert_array_equal(placed["label"], batch["label"])


def test_many_batches_at_once_are_the_same_batches():
    rows = np.arange(100, 150)
    batches = pipeline.TrainBatches(np.zeros((200, 2, 2, 3), np.uint8), np.arange(200), rows, batch_size=12, seed=3,
                                    process_index=1, process_count=2)  # fmt: skip
    at_once = batches.places(5, 20)
    assert at_once.shape == (20, 6)
    for i, places in enumerate(at_once):
        assert (batches[5 + i]["label"] == rows[places]).all()


@pytest.mark.parametrize("size", [3, 64 << 20])
def test_the_images_on_the_device_are_those_of_the_split(monkeypatch, size):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8), rng.integers(0, 5, 40).astype(np.int32)
    rows = rng.permutation(40)[:23]
    batches = pipeline.TrainBatches(images, labels, rows, batch_size=4, seed=0)
    monkeypatch.setattr(inference.batches, "PART", size)  # bytes: one image, all images
    resident = batches.on_devices(runtime.replicated(runtime.mesh()))
    assert (np.asarray(resident["image"]) == images[rows]).all()
    assert (np.asarray(resident["label"]) == labels[rows]).all()
