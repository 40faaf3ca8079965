"""The order of the training images: a pure function of seed and step, for any number of processes."""

import numpy as np
import pytest

from cnnjax import inference
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
