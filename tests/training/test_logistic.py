"""Logistic regression: scikit-learn's solution, folded into one layer."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnjax.training import logistic
from cnnjax.training.logistic import Regression

PENALTIES = (1000.0, 30.0, 1.0)


def drawn(images, features, classes, seed=0):
    """Correlated features of different sizes, and labels that they tell of."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    x = rng.normal(size=(images, features)) + rng.normal(size=(classes, features))[labels] * 0.4
    return (x @ rng.normal(size=(features, features)) * np.logspace(-2, 2, features) + 3).astype(np.float32), labels


def probabilities(head, features):
    logits = head.logits(features).astype(np.float64)
    return np.concatenate([1 - expit(logits), expit(logits)], 1) if logits.shape[1] == 1 else softmax(logits, 1)


def reference(features, labels, penalty, weights):
    made = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000))
    return made.fit(features.astype(np.float64), labels, logisticregression__sample_weight=weights)


@pytest.mark.parametrize("images, features, classes", [(150, 20, 3), (150, 20, 2), (40, 90, 3), (40, 90, 2)])
def test_every_penalty_of_a_path_has_the_solution_of_scikit_learn(images, features, classes):
    x, labels = drawn(images, features, classes)
    weights = np.linspace(0.3, 2, images)
    regression = Regression(x, labels, 1 if classes == 2 else classes, weights)
    unseen = drawn(60, features, classes, seed=0)[0]
    for penalty in PENALTIES:
        head, passes = regression.fit(penalty)
        expected = reference(x, labels, penalty, weights).predict_proba(unseen.astype(np.float64))
        np.testing.assert_allclose(probabilities(head, unseen), expected, atol=1e-4)
        assert head.kernel.dtype == head.bias.dtype == np.float32 and passes < 150


def test_a_feature_that_is_the_same_everywhere_has_no_part_in_it():
    x, labels = drawn(80, 6, 3)
    x[:, 2] = 0.1
    head, _ = Regression(x, labels, 3, np.ones(80)).fit(10.0)
    np.testing.assert_allclose(head.kernel[2], 0, atol=1e-6)
    np.testing.assert_allclose(
        probabilities(head, x), reference(x, labels, 10.0, None).predict_proba(x.astype(np.float64)), atol=1e-4
    )


def test_where_there_are_too_many_directions_the_features_are_taken_as_they_are(monkeypatch):
    x, labels = drawn(90, 8, 3)
    turned, _ = Regression(x, labels, 3, np.ones(90)).fit(30.0)
    monkeypatch.setattr(logistic, "LARGE", 5)
    plain, _ = Regression(x, labels, 3, np.ones(90)).fit(30.0)
    np.testing.assert_allclose(probabilities(plain, x), probabilities(turned, x), atol=1e-5)


def test_a_class_without_a_training_image_is_never_probable():
    x, labels = drawn(60, 5, 2)
    head, _ = Regression(x, labels, 3, np.ones(60)).fit(100.0)
    assert probabilities(head, x)[:, 2].max() < 1e-3
