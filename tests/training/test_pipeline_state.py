"""The position of the data in a checkpoint, and the crossing to the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_tools  # noqa: F401 - strict ranks

from cnnjax import runtime
from cnnjax.training import feeds as pipeline


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
