"""Mixup and CutMix: which pixels of which image, and labels and losses that follow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats
from training_tools import network_of, settings

from cnnjax.augmentation import mixing
from cnnjax.augmentation import operations as augment
from cnnjax.training import losses, optimizers, state, steps

COUNT, SIZE = 480, 32
LABELS = np.arange(COUNT, dtype=np.int32) % 5
# One colour in each image and another in the next, so that a mixed one tells its parts.
COLOURS = np.arange(COUNT) % 13 * 20
CONSTANT = np.broadcast_to(COLOURS[:, None, None, None].astype(np.uint8), (COUNT, SIZE, SIZE, 3))
PREVIOUS = np.roll(CONSTANT, 1, 0)
MIXUP, CUTMIX = {"mixup": 0.3}, {"cutmix": 1.0}


def section(**values):
    return settings(**{f"augment__{key}": value for key, value in values.items()}).augment


@functools.cache
def mixer(**values):
    return jax.jit(lambda key: mixing.mix(key, CONSTANT, LABELS, section(**values)))


def mix(seed=1, **values):
    images, targets = mixer(**values)(jax.random.key(seed))
    return np.asarray(images), mixing.Targets(*map(np.asarray, targets))


def blend(weight):
    weight = weight[:, None, None, None]
    return weight * CONSTANT + (1 - weight) * PREVIOUS


def cross_entropy(logits, labels):
    return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]


# Images


def test_both_off_returns_the_images_themselves_with_their_labels():
    images, targets = mixing.mix(jax.random.key(1), CONSTANT, LABELS, section())
    assert images is CONSTANT and targets.labels is LABELS
    assert (targets.weight == 1).all()


def test_mixup_blends_with_the_previous_image_by_a_weight_of_its_beta_distribution():
    images, targets = mix(**MIXUP)
    assert stats.kstest(targets.weight, "beta", (0.3, 0.3)).pvalue > 0.001
    np.testing.assert_allclose(images, blend(targets.weight), atol=1e-3)
    assert np.array_equal(targets.labels, LABELS) and np.array_equal(targets.partners, np.roll(LABELS, 1))


def test_cutmix_pastes_one_box_of_the_previous_image_and_weighs_by_the_pixels_that_are_left():
    images, targets = mix(**CUTMIX)
    kept = (images == CONSTANT).all(-1)
    assert np.array_equal(images, np.where(kept[..., None], CONSTANT, PREVIOUS))
    np.testing.assert_allclose(targets.weight, kept.mean((1, 2)), atol=1e-6)
    for pasted in ~kept:
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, rows[:, None] & columns[None])
        for line in (rows, columns):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
    assert np.array_equal(targets.labels, LABELS) and np.array_equal(targets.partners, np.roll(LABELS, 1))


def test_the_box_of_cutmix_has_its_beta_distribution_before_it_is_cut_at_the_edges():
    images, _ = mix(**CUTMIX)
    pasted = (images != CONSTANT).any(-1)
    rows, columns = pasted.any(2), pasted.any(1)
    inside = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1])
    assert np.array_equal(rows.sum(1)[inside], columns.sum(1)[inside])  # square, as the image is
    # Of a box with side s the centre is so far inside with probability (1 - s) ** 2; its area s ** 2 is uniform.
    side = (rows.sum(1)[inside] + 1) / SIZE
    grid = np.linspace(0, 1, 2001)
    distribution = np.cumsum(grid * (1 - grid) ** 2)
    distribution /= distribution[-1]
    assert stats.binomtest(int(inside.sum()), COUNT, 1 / 6).pvalue > 0.001
    assert stats.kstest(side, lambda s: np.interp(s, grid, distribution)).pvalue > 0.001


def test_with_both_on_each_image_gets_one_of_them():
    images, targets = mix(**MIXUP, **CUTMIX)
    blended = np.ptp(images, axis=(1, 2, 3)) < 1e-3
    np.testing.assert_allclose(images[blended], blend(targets.weight)[blended], atol=1e-3)
    kept = (images == CONSTANT).all(-1)
    assert (kept | (images == PREVIOUS).all(-1))[~blended].all()
    np.testing.assert_allclose(targets.weight[~blended], kept.mean((1, 2))[~blended], atol=1e-6)
    assert stats.binomtest(int(blended.sum()), COUNT, 0.5).pvalue > 0.001


def test_mixing_is_pure_and_independent_of_the_augmentation():
    first, again, other = (mix(seed, **MIXUP, **CUTMIX) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[1].weight, other[1].weight)
    config = section(rotation=1.0, shift=0.1, erase=0.5, rand_augment=1)
    numbers = jax.jit(lambda key: augment.draw(key, COUNT, config))(jax.random.key(1))
    columns = np.concatenate([np.asarray(number).reshape(COUNT, -1) for number in numbers.values()], 1)
    for weight in (mix(**MIXUP)[1].weight, mix(**CUTMIX)[1].weight):
        assert np.abs(np.corrcoef(weight, columns.T)[0, 1:]).max() < 4.5 / COUNT**0.5


# Targets

RNG = np.random.default_rng(3)


def some_targets(classes):
    """Mixes twelve images."""
    labels = LABELS[:12] % classes
    return mixing.Targets(labels, np.roll(labels, 1), RNG.uniform(0, 1, 12).astype(np.float32))


def test_probabilities_are_the_mixed_labels():
    targets = mixing.Targets(jnp.array([0, 1, 2]), jnp.array([1, 1, 0]), jnp.array([0.7, 0.4, 1.0]))
    np.testing.assert_allclose(targets.probabilities(3, 0.0), [[0.7, 0.3, 0], [0, 1, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(
        targets.probabilities(3, 0.3), [[0.59, 0.31, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], atol=1e-6
    )


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_probabilities_add_up_to_one(classes, smoothing):
    p = np.asarray(some_targets(classes).probabilities(classes, smoothing))
    assert p.shape == (12, classes) and p.min() >= smoothing / classes - 1e-6
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_is_that_of_optax(smoothing):
    targets = mixing.Targets(LABELS, LABELS, np.ones(COUNT, np.float32))
    expected = optax.smooth_labels(jax.nn.one_hot(LABELS, 5), smoothing)
    np.testing.assert_allclose(targets.probabilities(5, smoothing), expected, atol=1e-6)


# Losses


@pytest.mark.parametrize("classes", [2, 5])
def test_the_loss_of_a_mixed_image_is_the_mixed_loss(classes):
    logits = RNG.normal(0, 3, (12, classes)).astype(np.float32)
    labels, partners, weight = targets = some_targets(classes)
    expected = weight * cross_entropy(logits, labels) + (1 - weight) * cross_entropy(logits, partners)
    np.testing.assert_allclose(
        losses.cross_entropy(logits, targets.probabilities(classes, 0.0)), expected, rtol=1e-5, atol=1e-6
    )
    everywhere = np.mean([cross_entropy(logits, np.full(12, c)) for c in range(classes)], 0)
    smooth = losses.cross_entropy(logits, targets.probabilities(classes, 0.2))
    np.testing.assert_allclose(smooth, 0.8 * expected + 0.2 * everywhere, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_logit_has_the_loss_of_two_classes(smoothing):
    logit, targets = RNG.normal(0, 3, (12, 1)).astype(np.float32), some_targets(2)
    two = losses.cross_entropy(np.concatenate([0 * logit, logit], 1), targets.probabilities(2, smoothing))
    np.testing.assert_allclose(losses.cross_entropy(logit, targets.probabilities(2, smoothing)), two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs, classes", [(1, 2), (2, 2), (5, 5)])
def test_without_mixing_and_smoothing_it_is_the_plain_loss(outputs, classes):
    logits = RNG.normal(0, 3, (12, outputs)).astype(np.float32)
    targets = some_targets(classes)._replace(weight=np.ones(12, np.float32))
    out = losses.cross_entropy(logits, targets.probabilities(classes, 0.0))
    np.testing.assert_allclose(out, losses.cross_entropy_of_labels(logits, targets.labels), rtol=1e-5, atol=1e-6)


# The training step

SETTINGS = {
    "nothing": {},
    "augmented": {"augment": "light"},
    "mixed": {"augment__mixup": 0.4, "augment__rotation": 20.0, "train__label_smoothing": 0.2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name, classes", [("nothing", 2), ("augmented", 3), ("mixed", 3)])
def test_a_step_trains_on_exactly_what_training_images_shows(name, classes):
    config = settings(image__size=8, model__channels=(3,), model__dense=(4,), **SETTINGS[name])
    smoothing = config.train.label_smoothing
    network = network_of(config, classes)
    tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 10, 10))
    batch = {
        "image": RNG.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8),
        "label": RNG.integers(0, classes, 16).astype(np.int32),
    }
    before = jax.jit(lambda: state.initial(network, tx).replace(step=jnp.int32(5)))()

    @jax.jit
    def step(before, batch):
        after, values = steps.train_step(
            before, batch, network=network, tx=tx, recipe=steps.Recipe(config.augment, 7, smoothing)
        )
        images, targets = steps.training_images(before.step, batch, augment_config=config.augment, seed=7)
        logits = nnx.merge(network.eval_def, before.params, before.stats)(images)
        return after, values, images, targets, logits

    after, values, images, targets, logits = step(before, batch)
    if name == "nothing":
        assert np.array_equal(images, batch["image"]) and (targets.weight == 1).all()
    else:
        assert np.abs(np.asarray(images) - batch["image"]).max() > 1
    two = np.concatenate([0 * logits, logits], 1) if classes == 2 else logits
    p = np.asarray(targets.probabilities(classes, smoothing))
    expected = -(p * jax.nn.log_softmax(two)).sum(1)
    assert float(values["loss"]) == pytest.approx(float(expected.mean()), rel=1e-5)
    shown = np.where(targets.weight >= 0.5, targets.labels, targets.partners)
    accuracy = float((np.argmax(two, 1) == shown).mean())
    assert float(values["accuracy"]) == pytest.approx(accuracy)
    assert float(after.sums["loss"]) == pytest.approx(16 * float(values["loss"]), rel=1e-6)
    assert (float(after.sums["correct"]), float(after.sums["count"])) == (pytest.approx(16 * accuracy), 16)


def test_every_step_and_seed_shows_other_images():
    config = settings(augment__channel_shift=50.0).augment
    batch = {"image": RNG.integers(60, 190, (4, 8, 8, 3), dtype=np.uint8), "label": np.arange(4, dtype=np.int32)}

    @functools.partial(jax.jit, static_argnames="seed")
    def show(step, seed):
        return steps.training_images(step, batch, augment_config=config, seed=seed)[0]

    a, b, c, again = (np.asarray(show(jnp.int32(step), seed)) for step, seed in ((5, 0), (6, 0), (5, 1), (5, 0)))
    assert np.array_equal(a, again)
    for one, other in ((a, b), (a, c), (b, c)):
        assert (np.abs(one - other).mean((1, 2, 3)) > 1).all()
