"""Losses, and a loss of the user's own."""

import jax
import numpy as np
import pytest
from training_tools import settings

from cnnjax.errors import ConfigError
from cnnjax.training import steps
from cnnjax.training.losses import LOSSES, cross_entropy, cross_entropy_of_labels, find_loss, focal

OWN = """
import jax.numpy as jnp
def squared(logits, probabilities):
    return jnp.square(logits - probabilities).sum(-1)
"""


@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (2, 2), (5, 5)])
def test_certain_labels_have_the_loss_of_their_probabilities(outputs, classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (12, outputs)).astype(np.float32), rng.integers(0, classes, 12).astype(np.int32)
    expected = cross_entropy(logits, np.eye(classes, dtype=np.float32)[labels])
    np.testing.assert_allclose(cross_entropy_of_labels(logits, labels), expected, rtol=1e-5, atol=1e-6)


def test_a_loss_of_the_users_own_comes_from_a_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    loss = find_loss(settings(train__loss=f"{tmp_path / 'own.py'}:squared").train)
    np.testing.assert_allclose(loss(np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)), [3, 3])
    assert steps.recipe(settings(train__loss=f"{tmp_path / 'own.py'}:squared")).loss is not cross_entropy
    assert find_loss(settings().train) is LOSSES["cross_entropy"]
    with pytest.raises(ConfigError):
        find_loss(settings(train__loss=f"{tmp_path / 'own.py'}:cubed").train)


@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (2, 2), (5, 5)])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(outputs, classes, gamma):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (12, outputs)).astype(np.float32), rng.integers(0, classes, 12)
    wide = np.concatenate([np.zeros((12, 1)), logits], 1) if outputs == 1 else logits
    p = (np.exp(wide) / np.exp(wide).sum(1, keepdims=True))[np.arange(12), labels]
    certain = np.eye(classes, dtype=np.float32)[labels]
    np.testing.assert_allclose(focal(logits, certain, gamma=gamma), -((1 - p) ** gamma) * np.log(p), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_an_image_is_certain(gamma):
    logits = np.array([[200.0, -200.0], [-200.0, 200.0]], np.float32)
    slope = jax.grad(lambda z: focal(z, np.array([[1, 0], [1, 0]], np.float32), gamma=gamma).sum())(logits)
    assert np.isfinite(slope).all() and abs(slope[0]).max() < 1e-6 < abs(slope[1]).min()


def test_a_config_chooses_focal_loss_and_its_gamma():
    loss = find_loss(settings(train__loss="focal", train__focal_gamma=3.0).train)
    assert loss.func is focal and loss.keywords == {"gamma": 3.0}
