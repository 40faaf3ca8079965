"""Losses, and a loss of the user's own."""

import numpy as np
import pytest
from training_tools import settings

from cnnjax.errors import ConfigError
from cnnjax.training import steps
from cnnjax.training.losses import LOSSES, cross_entropy, cross_entropy_of_labels, find_loss

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
    loss = find_loss(f"{tmp_path / 'own.py'}:squared")
    np.testing.assert_allclose(loss(np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)), [3, 3])
    assert steps.recipe(settings(train__loss=f"{tmp_path / 'own.py'}:squared")).loss is not cross_entropy
    assert find_loss("cross_entropy") is LOSSES["cross_entropy"]
    with pytest.raises(ConfigError):
        find_loss(f"{tmp_path / 'own.py'}:cubed")
