"""The table of metrics: against scikit-learn, where numbers are huge or missing, and with a row more."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from cnnjax import metrics
from cnnjax.metrics import scores as scores_lib

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c", "d", "e", "f", "g")


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_numbers_are_scikit_learns(classes):
    labels = RNG.integers(0, classes, 300)
    logits = RNG.standard_normal((300, 1 if classes == 2 else classes)).astype(np.float32) * 2
    p = metrics.probabilities(logits)
    result = metrics.detailed(logits, labels, NAMES[:classes], 0 if classes == 2 else -1)
    assert np.allclose(p.sum(1), 1)
    assert result["images"] == 300
    assert result["loss"] == pytest.approx(reference.log_loss(labels, p))
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(labels, p.argmax(1)))
    assert result["confusion"] == reference.confusion_matrix(labels, p.argmax(1)).tolist()
    scores = reference.precision_recall_fscore_support(labels, p.argmax(1))
    for i, name in enumerate(NAMES[:classes]):
        ours = result["per_class"][name]
        assert (ours["precision"], ours["recall"], ours["f1"], ours["images"]) == pytest.approx([s[i] for s in scores])
    assert ("top5_accuracy" in result) == (classes > 5)
    if classes > 5:
        assert result["top5_accuracy"] == pytest.approx(reference.top_k_accuracy_score(labels, p, k=5))


@pytest.mark.parametrize("positive", [0, 1])
def test_two_class_numbers_are_of_the_positive_class(positive):
    labels, logits = RNG.integers(0, 2, 200), RNG.standard_normal((200, 1))
    numbers = metrics.headline(logits, labels, positive)
    p = metrics.probabilities(logits)
    called = p.argmax(1)
    assert numbers["auc"] == pytest.approx(reference.roc_auc_score(labels == positive, p[:, positive]))
    assert numbers["sensitivity"] == pytest.approx(reference.recall_score(labels, called, pos_label=positive))
    assert numbers["specificity"] == pytest.approx(reference.recall_score(labels, called, pos_label=1 - positive))


def test_numbers_do_not_depend_on_the_parts_they_are_computed_in(monkeypatch):
    labels, logits = RNG.integers(0, 7, 300), RNG.standard_normal((300, 7)).astype(np.float32)
    whole = metrics.detailed(logits, labels, NAMES, -1)
    monkeypatch.setattr(scores_lib, "NUMBERS", 70)
    assert metrics.detailed(logits, labels, NAMES, -1) == whole


def test_the_other_class_as_positive_swaps_sensitivity_and_specificity():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    logits = rng.normal(size=(400, 1)) + 1.5 * (labels[:, None] - 0.3)
    zero, one = (metrics.headline(logits, labels, positive) for positive in (0, 1))
    assert (zero["sensitivity"], zero["specificity"]) == (one["specificity"], one["sensitivity"])
    assert zero["sensitivity"] != zero["specificity"]
    assert zero["auc"] == pytest.approx(one["auc"]) and zero["auc"] > 0.8


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_what_needs_the_missing_class_is_none(present, positive):
    numbers = metrics.headline(np.array([[1.0], [-1.0], [2.0]], np.float32), np.full(3, present), positive)
    missing, other = ("specificity", "sensitivity") if present == positive else ("sensitivity", "specificity")
    assert numbers["auc"] is None and numbers[missing] is None
    assert numbers[other] == pytest.approx(2 / 3 if present == 1 else 1 / 3)


def test_a_ratio_without_a_denominator_is_none():
    per_class = metrics.detailed(np.array([[-5.0], [-5.0]]), np.array([0, 0]), ["a", "b"], 0)["per_class"]
    assert per_class["a"] == {"images": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert per_class["b"] == {"images": 0, "precision": None, "recall": None, "f1": None}
    assert metrics.detailed(np.array([[9.0, 0, 0]]), np.array([0]), "abc", -1)["per_class"]["b"]["recall"] is None


@pytest.mark.parametrize("huge", [1e4, 1e30])
def test_huge_logits_do_not_overflow(huge):
    binary = metrics.headline(np.array([[huge], [-huge], [huge], [-huge]], np.float32), np.array([1, 0, 0, 1]), 1)
    assert binary["loss"] == pytest.approx(huge / 2)
    assert binary["accuracy"] == 0.5
    several = metrics.headline(np.array([[huge, -huge, 0], [0, 0, huge]], np.float32), np.array([1, 2]), -1)
    assert several["loss"] == pytest.approx(huge)
    assert np.isfinite(metrics.probabilities(np.array([[huge], [-huge]]))).all()


def test_perfect_and_inverted_order_have_auc_one_and_zero():
    labels, logits = np.array([0, 0, 1, 1]), np.array([[1.0], [2.0], [3.0], [4.0]])  # all above 0: AUC is about order
    assert metrics.headline(logits, labels, 1)["auc"] == 1.0
    assert metrics.headline(logits, labels, 1)["accuracy"] == 0.5
    assert metrics.headline(-logits, labels, 1)["auc"] == 0.0


@pytest.mark.parametrize("positive", [0, 1])
def test_auc_tells_very_certain_images_apart(positive):
    # In float64 both probabilities of one side are 1.0; the order is known all the same.
    for logits in ([[50.0], [60.0]], [[-60.0], [-50.0]]):
        assert metrics.headline(np.array(logits, np.float32), np.array([0, 1]), positive)["auc"] == 1.0


def test_ties_for_the_fifth_place_count_for_the_true_class():
    names = list("abcdefg")
    assert metrics.detailed(np.zeros((1, 7)), np.array([6]), names, -1)["top5_accuracy"] == 1.0
    assert metrics.detailed(np.arange(7.0)[None], np.array([1]), names, -1)["top5_accuracy"] == 0.0
    assert metrics.detailed(np.arange(7.0)[None], np.array([2]), names, -1)["top5_accuracy"] == 1.0


@pytest.mark.parametrize("value, text", [(None, "-"), (math.nan, "-"), (0.98765, "0.9877"), (1.0, "1.0000")])
def test_a_number_for_people(value, text):
    assert metrics.shown(value) == text


@pytest.fixture
def kappa(monkeypatch):
    """One more row of the table: Cohen's kappa."""

    def value(p):
        chance = (np.bincount(p.labels, minlength=p.classes) * np.bincount(p.called, minlength=p.classes)).sum() / len(
            p.labels
        ) ** 2
        return float(((p.called == p.labels).mean() - chance) / (1 - chance))

    monkeypatch.setitem(metrics.METRICS, "kappa", metrics.Metric("kappa", value, tile=True))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_new_metric_is_one_row(kappa, classes):
    labels, logits = RNG.integers(0, classes, 300), RNG.standard_normal((300, classes)).astype(np.float32)
    result = metrics.detailed(logits, labels, NAMES[:classes], 1 if classes == 2 else -1)
    assert result["kappa"] == pytest.approx(reference.cohen_kappa_score(labels, logits.argmax(1)))
    assert list(metrics.present([result], classes))[-1] == list(metrics.summarized(result))[-1] == "kappa"
    assert "kappa" not in metrics.headline(logits, labels, 1), "not after every epoch, unless the row says so"


@pytest.mark.parametrize("classes, names", [
    (2, "images loss balanced_accuracy accuracy auc sensitivity specificity classes positive majority confusion per_class"),
    (3, "images loss balanced_accuracy accuracy classes majority macro_auc confusion per_class"),
    (7, "images loss balanced_accuracy accuracy classes majority macro_auc top5_accuracy confusion per_class"),
])  # fmt: skip
def test_names_in_files_and_their_order_stay(classes, names):
    result = metrics.detailed(np.zeros((4, classes)), np.array([0, 1, 1, 0]), NAMES[:classes], 1 if classes == 2 else -1)
    assert list(result) == names.split()


@pytest.mark.parametrize("classes", [2, 5])
def test_uneven_classes_are_led_by_balanced_accuracy_and_the_share_of_the_largest(classes):
    labels = np.minimum(RNG.integers(0, 40, 400), classes - 1)  # the last class has nearly all
    logits = RNG.standard_normal((400, classes)).astype(np.float32)
    result = metrics.detailed(logits, labels, NAMES[:classes], 1 if classes == 2 else -1)
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, logits.argmax(1)))
    assert result["majority"] == pytest.approx((labels == classes - 1).mean())
    assert list(metrics.present([result], classes))[2:5] == ["balanced_accuracy", "accuracy", "majority"]
    even = metrics.detailed(logits, np.arange(400) % classes, NAMES[:classes], 1 if classes == 2 else -1)
    assert list(metrics.present([even], classes))[2:4] != ["balanced_accuracy", "accuracy"]
    assert "majority" not in metrics.present([even], classes)
