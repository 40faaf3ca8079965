"""Several processes and devices train and evaluate as one does, and take over from each other.

They are started once and do all their work there, because a start takes seconds.
"""

import json

import numpy as np
import pytest
from process_tools import BATCHES, MATRIX, OPTIONS, history, log
from training_tools import read_rows, tiny

from cnnjax.data import dataset
from cnnjax.progress import Progress
from cnnjax.training import feeds as pipeline

pytestmark = pytest.mark.slow


def alike(workdir, expected, tolerance=1e-4):
    """The same steps with the same numbers to float tolerance, in the log and in the history, without a gap."""
    for have, want in ((log(workdir), log(expected)), (history(workdir), history(expected))):
        assert len(have) == len(want)
        for a, b in zip(have, want, strict=True):
            assert list(a) == list(b)
            assert list(map(float, a.values())) == pytest.approx(list(map(float, b.values())), rel=tolerance, abs=tolerance)


def evaluated_alike(workdir, expected):
    """The same images, each once and in the same order, with the same numbers to float tolerance."""
    for split in ("train", "val", "test"):
        have, want = (read_rows(path / "eval" / f"{split}.csv") for path in (workdir, expected))
        assert [row["id"] for row in have] == [row["id"] for row in want]
        assert len({row["id"] for row in have}) == len(have)
        np.testing.assert_allclose([float(row["p_Parasitized"]) for row in have],
                                   [float(row["p_Parasitized"]) for row in want], atol=1e-4)  # fmt: skip
        numbers = [json.loads((path / "summary.json").read_text())[split] for path in (workdir, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)


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


@pytest.mark.parametrize("processes, devices", MATRIX)
def test_the_blocks_of_the_processes_are_the_global_batches_of_one(matrix, cells, place, one, processes, devices):
    data = dataset.prepare(tiny(cells, place / "cache", **OPTIONS), one, Progress(), freeze=False)
    batches = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=16, seed=0)
    blocks = [np.load(f"{place / f'{processes}x{devices}'}.{process}.npz") for process in range(processes)]
    for k in range(BATCHES):
        for name in ("image", "label"):
            np.testing.assert_array_equal(np.concatenate([block[name][k] for block in blocks]), batches[k][name])


def test_only_the_first_process_writes_files(matrix):
    for answers in matrix.values():
        assert answers[0]["written"]
        assert [answer["written"] for answer in answers[1:]] == [[]] * (len(answers) - 1)


def test_whitening_is_fitted_once_for_all_processes(matrix, here, place):
    alike(place / "whitened", here("whitened-one", image__zca=True))


def test_parameters_divided_between_processes_train_as_whole_ones(matrix, place, one):
    alike(place / "divided", one)
    evaluated_alike(place / "divided", one)


def test_images_on_the_devices_of_several_processes_are_the_same_batches(matrix, place):
    assert log(place / "resident") == log(place / "2x1")


# Handed over


def test_four_processes_hand_over_to_two_and_to_one(matrix, here, place, one):
    assert [answer["said"] for answer in matrix[4, 1]] == [matrix[4, 1][0]["said"]] * 4
    assert [answer["said"] for answer in matrix[2, 1]] == [matrix[2, 1][0]["said"]] * 2
    alike(here("down"), one)
    evaluated_alike(place / "down", one)


def test_one_process_hands_over_to_four(matrix, place, one):
    alike(place / "up", one)
    evaluated_alike(place / "up", one)
