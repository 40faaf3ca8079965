"""Two runs and the pages of them and of their data, which all tests of pages read."""

from types import SimpleNamespace

import pytest
from training_tools import tiny

import cnnjax
from cnnjax import config as config_lib

AWKWARD = ("a <b>bold one", 'with "quotes"', "ümlaut & co")


@pytest.fixture(scope="session")
def pages_cache(made_once):
    """A cache directory that the tests of pages share."""
    return made_once("pages-cache", lambda place: place)


@pytest.fixture(scope="session")
def two(cell_folder, pages_cache, made_once):
    """A finished run on two classes, with augmentation that has a cost. Read it only, as all runs here."""
    config = tiny(cell_folder, pages_cache, augment="cells", name="two", log__tensorboard=True)
    return made_once("two", lambda place: trained(config, place / "two"))


def trained(config, workdir):
    return SimpleNamespace(workdir=workdir, config=config, summary=cnnjax.train(config, workdir))


@pytest.fixture(scope="session")
def three(make_folder, pages_cache, made_once):
    """A finished run on three classes with names that HTML must escape; one file is not an image."""

    def make(place):
        folder = make_folder(place / "images", AWKWARD, 24)
        (folder / AWKWARD[0] / "C1<i>not.png").write_bytes(b"not an image")
        config = tiny(folder, pages_cache, split__method="stratified", data__positive="", augment__mixup=0.4, data__max_bad_fraction=0.1,
                      name="three", optimizer__learning_rate=0.003)  # fmt: skip
        return trained(config, place / "three")

    return made_once("three", make)


@pytest.fixture(scope="session")
def explored(two, three, made_once):
    """Pages of both data sets, with everything switched on in one."""
    everything = dict(augment="strong", augment__noise=5.0, augment__blur=1.0, augment__stain=0.05, augment__turns=True,
                      augment__pad_crop=2, augment__channel_shift=9.0, augment__trivial_augment=True)  # fmt: skip
    changed = {key.replace("__", "."): value for key, value in everything.items()}
    config = config_lib.from_dict(two.config.to_dict(), changed)
    return made_once("explored", lambda out: SimpleNamespace(
        config=config, two=cnnjax.explore(config, out / "two"), three=cnnjax.explore(three.config, out / "three")))  # fmt: skip


@pytest.fixture(scope="session")
def compared(two, three):
    return cnnjax.compare_runs([two.workdir, three.workdir])
