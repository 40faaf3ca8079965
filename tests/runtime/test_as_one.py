"""Several processes and devices train and evaluate as one does, and take over from each other.

They are started once and do all their work there, because a start takes seconds.
"""

import numpy as np
import pytest
from process_tools import BATCHES, HANDED, LEGS, MATRIX, OPTIONS, alike, evaluated_alike, log
from training_tools import read_rows, tiny

from cnnjax.data import dataset
from cnnjax.progress import Progress
from cnnjax.training import feeds as pipeline

pytestmark = pytest.mark.slow


# As one


def test_no_split_is_a_whole_number_of_batches(one):
    assert all(
        len(read_rows(one / "eval" / f"{split}.csv")) % OPTIONS["data__batch_size"] for split in ("train", "val", "test")
    )


@pytest.mark.parametrize("processes, devices", MATRIX)
def test_processes_and_devices_train_and_evaluate_as_one(matrix, place, one, processes, devices):
    workdir = place / f"{processes}x{devices}"
    alike(workdir, one)
    evaluated_alike(workdir, one)


@pytest.mark.parametrize("run, processes", [("2x1", 2), ("host", LEGS[-1][0])])
def test_the_blocks_of_the_processes_are_the_global_batches_of_one(matrix, cells, place, one, run, processes):
    data = dataset.prepare(tiny(cells, place / "cache", **OPTIONS), one, Progress(), freeze=False)
    batches = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=16, seed=0)
    blocks = [np.load(f"{place / run}.{process}.npz") for process in range(processes)]
    for k in range(BATCHES):
        for name in ("image", "label"):
            np.testing.assert_array_equal(np.concatenate([block[name][k] for block in blocks]), batches[k][name])


def test_only_the_first_process_writes_files(matrix):
    for answers in matrix:
        assert answers[0]["written"]
        assert [answer["written"] for answer in answers[1:]] == [[]] * (len(answers) - 1)


def test_whitening_is_fitted_once_for_all_processes(matrix, here, place):
    alike(place / "whitened", here("whitened-one", image__zca=True))


# Handed over


@pytest.mark.parametrize("run", HANDED)
def test_four_processes_hand_over_to_two_to_one_and_to_four_again(matrix, place, one, encoded, run):
    at = list(HANDED).index(run)
    said = [[answer["said"][at] for answer in answers] for answers in matrix[: len(LEGS) - 1]]
    assert [len(set(words)) for words in said] == [1] * len(said), "each stop is one of all processes, at the same step"
    expected = encoded if run == "encoded" else one  # its images come in another order, and are cropped
    alike(place / run, expected)
    evaluated_alike(place / run, expected)


def test_images_on_the_devices_of_several_processes_are_the_same_batches(matrix, place):
    assert log(place / "device") == log(place / "host")
