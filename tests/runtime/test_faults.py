"""Runs that are broken end as the undisturbed one does; the faults are in `fault_list.py`, what is compared in `outcomes.py`."""

import faults
import numpy as np
import pytest
from training_tools import settings

from cnnjax.config import Preprocessing
from cnnjax.data import cache, sources
from cnnjax.progress import Progress

TRIALS = [
    ("kill", 0),
    ("kill_while_saving", 0),
    ("term_group", 0),
    ("full_disk", 0),
    ("damaged_checkpoint", 0),
    ("corrupt_image", 0),
    ("diverges", 0),
]


@pytest.fixture(scope="module")
def site(made_once):
    return made_once("faults", lambda place: faults.Site(place / "site"))


@pytest.mark.slow
@pytest.mark.parametrize("fault, seed", TRIALS)
def test_a_broken_run_ends_as_the_undisturbed_one_bit_for_bit(site, fault, seed):
    try:
        faults.run_trial(site, fault, seed)
    except faults.Skip as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ["images.npy", "facts.csv"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.99])
def test_decoded_images_that_were_cut_short_are_decoded_again(cell_folder, isolated_cache, name, left):
    config = settings(data__path=str(cell_folder), image__size=16)
    source = sources.open_source(config.data, Progress())
    first = cache.build(source, Preprocessing.of(config.image), isolated_cache, Progress())
    expected, (path,) = np.array(first.images), isolated_cache.glob(f"decoded/*/{name}")
    with open(path, "r+b") as file:
        file.truncate(int(left * path.stat().st_size))
    again = cache.build(source, Preprocessing.of(config.image), isolated_cache, Progress())
    assert again.built and again.facts == first.facts
    np.testing.assert_array_equal(again.images, expected)
    assert not cache.build(source, Preprocessing.of(config.image), isolated_cache, Progress()).built
    assert len(list((isolated_cache / "decoded").iterdir())) == 1
