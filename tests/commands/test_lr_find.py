"""Learning rates that are tried before a run."""

import numpy as np
import pytest

import cnnjax
from cnnjax.errors import ConfigError, Stopped
from cnnjax.training import RANGE_STEPS, RangeTest


@pytest.mark.slow
def test_it_draws_a_picture_and_names_a_rate_that_learns(make, tmp_path):
    picture, rate = cnnjax.lr_find(make(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lr_find.png"] and picture.name == "lr_find.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and 1e-5 < rate < 1
    learned, idle = (cnnjax.train(make(optimizer__learning_rate=value, train__epochs=4), tmp_path / name).summary["train"]["loss"]
                     for name, value in (("run", rate), ("idle", 1e-6)))  # fmt: skip
    assert learned < idle - 0.02


def test_a_stop_leaves_nothing(make, tmp_path):
    asked = iter(range(10**6))
    with pytest.raises(Stopped, match="the same command starts it again"):
        cnnjax.lr_find(make(), tmp_path / "run", stop=lambda: next(asked) > 20)
    assert not list((tmp_path / "run").glob("*"))


def test_a_probe_has_no_rate_to_find(make, tmp_path):
    options = {"train__epochs": 30, "train__patience": 10, "optimizer__learning_rate": 1e-3}
    with pytest.raises(ConfigError, match="train.method=probe has no learning rate"):
        cnnjax.lr_find(make(train__method="probe", **options), tmp_path / "run")


def curve(losses):
    return RangeTest(np.geomspace(1e-6, 1, len(losses)), np.asarray(losses, float))


def test_the_rate_is_a_quarter_of_that_with_the_lowest_loss():
    valley = 2 + 0.5 * (np.log10(np.geomspace(1e-6, 1, RANGE_STEPS)) + 3) ** 2
    noisy = valley + np.random.default_rng(0).normal(0, 0.1, RANGE_STEPS)
    assert curve(valley).suggested == pytest.approx(2.5e-4, rel=0.1)
    assert curve(noisy).suggested == pytest.approx(2.5e-4, rel=0.4)


@pytest.mark.parametrize("losses", [np.ones(RANGE_STEPS), np.linspace(1, 5, RANGE_STEPS), np.ones(12)])
def test_no_rate_is_named_where_none_lowers_the_loss(losses):
    assert curve(losses).suggested is None and len(curve(losses).smooth) == len(losses)
