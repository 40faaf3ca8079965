"""Draws for each image and their use: distributions, policies, presets, extremes, purity, devices."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from training_tools import on_devices, settings

from cnnjax.augmentation import operations as augment
from cnnjax.config import PRESETS

SIZE, COUNT = 16, 4000
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
KEY = jax.random.key(3)
SURE = 0.001  # p-value; the key is fixed, so that a test passes always or never

EVERYTHING = {
    "flip_horizontal": True, "flip_vertical": True, "turns": True, "rotation": 30.0, "zoom": 0.2, "stretch": 0.1, "shear": 12.0,
    "shift": 0.15, "crop_area": 0.4, "pad_crop": 3, "brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "grey": 0.3,
    "hue": 0.05, "gamma": 0.5, "stain": 0.1, "channel_shift": 20.0, "blur": 1.5, "noise": 8.0, "erase": 0.4, "cutout": 0.25,
}  # fmt: skip
PAIRS = {"mixup": 0.4, "cutmix": 1.0}
OPTIONS = {"crop_ratio", "interpolation", "fill", "rand_augment", "rand_augment_magnitude", "trivial_augment"}
# Of every number at the settings above.
UNIFORM = {
    "zoom": (0.8, 1.2), "stretch_y": (0.9, 1.1), "stretch_x": (0.9, 1.1), "shear": (-12, 12), "rotation": (-30, 30),
    "shift_y": (-0.15, 0.15), "shift_x": (-0.15, 0.15), "crop_area": (0.4, 1), "crop_ratio": (-1, 1), "crop_y": (-1, 1),
    "crop_x": (-1, 1), "brightness": (0.7, 1.3), "contrast": (0.6, 1.4), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05),
    "stain": (-0.1, 0.1), "channel_shift": (-20, 20), "blur": (0, 1.5), "noise": (0, 8),
}  # fmt: skip
WHOLE = {"turns": range(4), "pad_y": range(-3, 4), "pad_x": range(-3, 4)}
CHANCE = {"mirror_y": 0.5, "mirror_x": 0.5, "grey": 0.3, "erase": 0.4}


def section(preset="none", **values):
    return settings(augment=preset, **{f"augment__{key}": value for key, value in values.items()}).augment


@functools.cache
def draw(count=COUNT, seed=3, **values):
    numbers = jax.jit(lambda key: augment.draw(key, count, section(**values)))(jax.random.key(seed))
    return {name: np.asarray(value) for name, value in numbers.items()}


@pytest.fixture(scope="module")
def drawn():
    return draw(**EVERYTHING)


def columns(numbers):
    return np.concatenate([value.reshape(len(value), -1) for value in numbers.values()], 1)


def independent(values):
    """Columns that correlate no more than a few hundred pairs of random ones would."""
    values = values[:, values.std(0) > 0]
    return np.abs(np.corrcoef(values.T)[np.triu_indices(values.shape[1], 1)]).max() < 4.5 / len(values) ** 0.5


# Numbers


def test_the_settings_of_these_tests_switch_everything_on(drawn):
    assert EVERYTHING.keys() | PAIRS.keys() | OPTIONS | {"custom"} == set(section())
    assert augment.active(section(**EVERYTHING)) == tuple(augment.NUMBERS)
    assert drawn.keys() == {*augment.NUMBERS, "place"} == {*UNIFORM, *WHOLE, *CHANCE, "gamma", "cutout", "place"}


@pytest.mark.parametrize("name", [*UNIFORM, "gamma", "place"])
def test_a_number_is_uniform_in_its_range(drawn, name):
    values, (low, high) = drawn[name], UNIFORM.get(name, (0, 1))
    if name == "gamma":  # as far towards brighter as towards darker
        values, low, high = np.log(values), -np.log(1.5), np.log(1.5)
    slack = 1e-5 * (high - low)
    assert low - slack <= values.min() and values.max() <= high + slack
    for column in values.reshape(COUNT, -1).T:
        assert stats.kstest(column, "uniform", (low, high - low)).pvalue > SURE


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_is_uniform_over_its_values(drawn, name):
    found, counts = np.unique(drawn[name], return_counts=True)
    assert found.tolist() == list(WHOLE[name])
    assert stats.chisquare(counts).pvalue > SURE


@pytest.mark.parametrize("name", CHANCE)
def test_a_chance_has_its_probability(drawn, name):
    assert set(drawn[name]) == {0.0, 1.0}
    assert stats.binomtest(int(drawn[name].sum()), COUNT, CHANCE[name]).pvalue > SURE


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_chance_of_none_or_all_is_none_or_all(probability):
    assert (draw(grey=probability, noise=1.0).get("grey", 0.0) == np.float32(probability)).all()


def test_numbers_are_independent_of_each_other_and_from_image_to_image(drawn):
    values = columns(drawn)
    assert independent(values)
    assert independent(np.concatenate([values[1:], values[:-1]], 1))


def test_an_operation_draws_the_same_alone_and_among_others(drawn):
    configs = {key: section(**{key: value}) for key, value in EVERYTHING.items()}
    for key, alone in jax.jit(lambda k: {name: augment.draw(k, 50, config) for name, config in configs.items()})(
        KEY
    ).items():
        assert alone.keys() - {"place"} == {name for name, number in augment.NUMBERS.items() if number.key == key}
        for name, value in alone.items():
            np.testing.assert_allclose(value, drawn[name][:50], rtol=1e-6)


def test_numbers_depend_on_the_position_and_the_key_only(drawn):
    few, again, other = draw(7, **EVERYTHING), draw(7, **EVERYTHING), draw(7, 4, **EVERYTHING)
    for name, value in few.items():
        assert np.array_equal(value, again[name])
        np.testing.assert_allclose(value, drawn[name][:7], rtol=1e-6)
    assert not any(np.array_equal(few[name], other[name]) for name in UNIFORM)


# Boxes

WIDE = np.broadcast_to(np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8), (400, 64, 64, 3))


def boxes(**values):
    """Returns the box of the pixels that were changed in each image: top, left, height, width; all of them inside it."""
    config = section(**values)
    out = jax.jit(lambda images: augment.augment(KEY, images, config))(WIDE)
    changed = (np.abs(np.asarray(out) - WIDE) > 0.01).any(-1)
    rows, cols = changed.any(2), changed.any(1)
    top, left = rows.argmax(1), cols.argmax(1)
    tall, wide = rows.sum(1), cols.sum(1)
    for image, *box in zip(changed, top, left, tall, wide, strict=True):
        inside = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        assert inside.mean() > 0.98 if inside.size else not image.any()  # all but pixels of the mean colour
    return top, left, tall, wide


def test_erased_boxes_have_2_to_33_percent_of_the_area_and_lie_anywhere_inside():
    top, left, tall, wide = boxes(erase=1.0)
    assert ((tall - 0.5) * (wide - 0.5) <= 0.33 * 64**2).all() and ((tall + 0.5) * (wide + 0.5) >= 0.02 * 64**2).all()
    assert stats.kstest(tall * wide / 64**2, "uniform", (0.02, 0.31)).pvalue > SURE
    ratio = np.log(tall / wide)
    assert np.abs(ratio).max() < np.log(3.3) + 0.15 and abs(ratio.mean()) < 0.15 and ratio.std() > 0.4
    for first, side in ((top, tall), (left, wide)):
        assert stats.kstest((first + 0.5) / (64 - side + 1), "uniform").pvalue > SURE


def test_only_the_chosen_images_are_erased():
    tall = boxes(erase=0.25)[2]
    assert stats.binomtest(int((tall > 0).sum()), 400, 0.25).pvalue > SURE


def test_a_cutout_is_a_square_hole_whose_centre_is_anywhere():
    top, left, tall, wide = boxes(cutout=0.25)
    for first, side in ((top, tall), (left, wide)):
        assert side.max() == 16 and side.min() >= 8
        centre = np.where(first > 0, first + 8, first + side - 8)
        assert stats.kstest((centre + 0.5) / 64, "uniform").pvalue > SURE


# Policies

BOTH = {  # at a magnitude of 0.3
    "rotation": (-9, 9), "shear": (-5.01, 5.01), "shift_y": (-0.135, 0.135), "shift_x": (-0.135, 0.135), "zoom": (0.85, 1.15),
    "brightness": (0.73, 1.27), "contrast": (0.73, 1.27), "saturation": (0.73, 1.27), "hue": (-0.03, 0.03), "gamma": (1 / 1.3, 1.3),
    "blur": (0.45, 0.45),
}  # fmt: skip


def changed(numbers):
    """Marks the numbers of a policy that differ from their identity: bool [images, names]."""
    return np.stack([np.abs(numbers[name] - augment.NUMBERS[name].identity) > 1e-6 for name in BOTH], 1)


def test_the_policies_choose_from_the_operations_of_these_tests():
    assert BOTH.keys() == augment.POLICY.keys() - {""}
    assert set(augment.active(section(rand_augment=1))) == BOTH.keys()


@pytest.mark.parametrize("values", [{"rand_augment": 1}, {"trivial_augment": True}])
def test_one_operation_or_none_is_chosen_with_equal_probability(values):
    chosen = changed(draw(**values))
    assert chosen.sum(1).max() == 1
    assert stats.chisquare([*chosen.sum(0), (~chosen.any(1)).sum()]).pvalue > SURE


@pytest.mark.parametrize("name", BOTH)
def test_randaugment_moves_by_the_magnitude_to_either_side(name):
    values = draw(rand_augment=1)[name]
    values = values[np.abs(values - augment.NUMBERS[name].identity) > 1e-6]
    below = np.abs(values - BOTH[name][0]) < 1e-5
    np.testing.assert_allclose(values, np.where(below, *BOTH[name]), rtol=1e-5)
    assert name == "blur" or stats.binomtest(int(below.sum()), len(values), 0.5).pvalue > SURE


@pytest.mark.parametrize("name", BOTH)
def test_trivialaugment_moves_by_a_uniform_magnitude_to_either_side(name):
    values = draw(trivial_augment=True)[name]
    values = values[np.abs(values - augment.NUMBERS[name].identity) > 1e-6]
    number, most = augment.NUMBERS[name], augment.POLICY[name]
    moved = np.where(values < 1, 1 / values, values) - 1 if name == "gamma" else np.abs(values - number.identity)
    above = values > number.identity
    for side in (above, ~above) if name != "blur" else (above,):
        assert stats.kstest(moved[side], "uniform", (0, most)).pvalue > SURE
    assert name == "blur" or stats.binomtest(int(above.sum()), len(values), 0.5).pvalue > SURE


def test_randaugment_draws_as_many_operations_as_it_is_told():
    count = changed(draw(rand_augment=3)).sum(1)
    assert count.max() == 3
    # Of twelve choices, one of them nothing: three different ones, and none of them nothing.
    assert stats.binomtest(int((count == 3).sum()), COUNT, 11 * 10 * 9 / 12**3).pvalue > SURE


def test_an_operation_that_is_drawn_twice_acts_twice():
    values = draw(20_000, rand_augment=2)["rotation"]
    assert set(np.round(values, 3)) == {-18.0, -9.0, 0.0, 9.0, 18.0}
    assert stats.binomtest(int((np.abs(values) > 17).sum()), 20_000, 0.5 / 144).pvalue > SURE


def test_a_policy_comes_on_top_of_single_operations_and_leaves_others_alone(drawn):
    both = draw(**EVERYTHING, rand_augment=1)
    for name, value in drawn.items():
        if name not in BOTH:
            np.testing.assert_allclose(both[name], value, rtol=1e-6)
    np.testing.assert_allclose(np.unique(np.round(both["rotation"] - drawn["rotation"], 3)), [-9, 0, 9], atol=1e-3)
    factors = np.unique(np.round(both["brightness"] / drawn["brightness"], 3))
    np.testing.assert_allclose(factors, [0.73, 1.0, 1.27], rtol=1e-3)


# Extremes


def values_of(shown, name):
    return [
        float(numbers[name].ravel()[0]) for numbers in (n for ends in shown.values() for _, n in ends) if name in numbers
    ]


def test_extremes_are_each_operation_alone_at_the_ends_of_its_range():
    shown = augment.extremes(section(**EVERYTHING, **PAIRS))
    assert shown.keys() == EVERYTHING.keys()
    names = {"place", "crop_ratio", "crop_y", "crop_x"}
    for key, ends in shown.items():
        assert len({label for label, _ in ends}) == len(ends)
        for _, numbers in ends:
            (name,) = numbers.keys() - names
            assert augment.NUMBERS[name].key == key and all(len(value) == 1 for value in numbers.values())
    for name in UNIFORM.keys() - {"stain", "channel_shift", "blur", "noise", "crop_area", *names}:
        assert values_of(shown, name) == pytest.approx(UNIFORM[name])
    assert values_of(shown, "gamma") == pytest.approx([1 / 1.5, 1.5])
    assert values_of(shown, "turns") == [1, 2, 3] and values_of(shown, "pad_x") == [-3, 3]
    assert values_of(shown, "blur") == [1.5] and values_of(shown, "noise") == [8] and values_of(shown, "cutout") == [0.25]
    assert values_of(shown, "crop_area") == pytest.approx([0.4] * 4)
    assert sorted(tuple(np.ravel(n["channel_shift"]).tolist()) for _, n in shown["channel_shift"]) == [
        (-20, 0, 0), (0, -20, 0), (0, 0, -20), (0, 0, 20), (0, 20, 0), (20, 0, 0)]  # fmt: skip


def test_every_extreme_can_be_applied_and_changes_the_image():
    config = section(**EVERYTHING)
    apply = jax.jit(lambda numbers: augment.apply(IMAGES[:1], numbers, config, KEY))
    for ends in augment.extremes(config).values():
        for label, numbers in ends:
            out = np.asarray(apply(numbers))
            assert out.shape == (1, SIZE, SIZE, 3) and out.min() >= 0 and out.max() <= 255, label
            assert np.abs(out - IMAGES[:1]).mean() > 1, label


@pytest.mark.parametrize("values, key, magnitude", [({"rand_augment": 2, "rand_augment_magnitude": 0.5}, "rand_augment", 0.5),
                                                    ({"trivial_augment": True}, "trivial_augment", 1.0)])  # fmt: skip
def test_extremes_of_a_policy_are_its_operations_at_the_magnitude(values, key, magnitude):
    shown = augment.extremes(section(**values))
    assert shown.keys() == {key} and len(shown[key]) == 21  # ten to both sides, and blur
    assert values_of(shown, "rotation") == pytest.approx([-30 * magnitude, 30 * magnitude])
    assert values_of(shown, "gamma") == pytest.approx([1 / (1 + magnitude), 1 + magnitude])
    assert values_of(shown, "blur") == [1.5 * magnitude]


# Presets


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_does_what_it_names_and_nothing_else(preset):
    config = section(preset)
    named = PRESETS[preset].keys() - PAIRS.keys() - OPTIONS
    assert {augment.NUMBERS[name].key for name in augment.active(config)} == named == augment.extremes(config).keys()
    if preset == "none":
        assert augment.augment(KEY, IMAGES, config) is IMAGES
        return
    out = jax.jit(lambda images: augment.augment(KEY, images, config))(IMAGES)
    assert out.shape == IMAGES.shape and out.dtype == jnp.float32
    assert out.min() >= 0 and out.max() <= 255
    assert (np.abs(out - IMAGES).mean((1, 2, 3)) > 1).all()


# Purity


@pytest.fixture(scope="module")
def augmented():
    config = section(**EVERYTHING, rand_augment=2)
    return jax.jit(lambda key, images: augment.augment(key, images, config))


def test_the_key_alone_decides(augmented):
    first, again, other = (np.asarray(augmented(jax.random.key(k), IMAGES)) for k in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (np.abs(first - other).mean((1, 2, 3)) > 1).all()


def test_an_image_is_augmented_by_its_position_whatever_the_others_are(augmented):
    out = np.asarray(augmented(KEY, IMAGES))
    others = IMAGES[[2, 1, 3, 0]]
    np.testing.assert_allclose(augmented(KEY, others)[1], out[1], atol=1e-3)
    same = np.asarray(augmented(KEY, np.repeat(IMAGES[:1], 4, 0)))
    assert all(np.abs(same[0] - image).mean() > 1 for image in same[1:])


# On devices

CODE = """
import json, sys, jax, numpy as np
from training_tools import settings, network_of
from cnnjax.training import feeds as pipeline
from cnnjax import runtime
from cnnjax.training import optimizers, state
from cnnjax.training import steps
config = settings(image__size=16, image__zca=True, model__channels=(3,), model__dense=(4,), model__dropout_dense=0.2,
                  train__label_smoothing=0.1, optimizer__name="sgd", **json.loads(sys.argv[1]))
network = network_of(config, 3)
tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 10, 10))
mesh = runtime.mesh()
whole = runtime.replicated(mesh)
def step(current, batch):
    shown = steps.training_images(current.step, batch, augment_config=config.augment, seed=config.seed)
    return *steps.train_step(current, batch, network=network, tx=tx, recipe=steps.recipe(config)), shown
run = jax.jit(step, out_shardings=(whole, whole, runtime.batched(mesh)))
current = jax.jit(lambda: state.initial(network, tx), out_shardings=whole)()
rng = np.random.default_rng(0)
matrix = np.eye(768, dtype=np.float32) + rng.normal(0, 0.1, (768, 768)).astype(np.float32)
fitted = jax.device_put({"whiten": {"mean": np.full((16, 16, 3), 0.5, np.float32), "matrix": matrix}}, whole)
current = current.replace(stats={**current.stats, **fitted})
batches = [{"image": rng.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), "label": rng.integers(0, 3, 16).astype(np.int32)}
           for _ in range(3)]
batches, losses = pipeline.put(batches, runtime.batched(mesh)), []
with jax.transfer_guard("disallow"):
    for batch in batches:
        current, values, (images, targets) = run(current, batch)
        losses.append(values["loss"])
numbers = {"losses": losses, "params": jax.tree.leaves(current.params), "images": images, "targets": list(targets)}
print(json.dumps({"devices": len(images.sharding.device_set), "traces": run._cache_size(),
                  "callbacks": "callback" in run.lower(current, batch).as_text(),
                  **{k: np.concatenate([np.ravel(x) for x in jax.tree.leaves(v)]).tolist() for k, v in numbers.items()}}))
"""


@pytest.mark.slow
def test_a_step_with_everything_compiles_once_stays_on_the_device_and_is_the_same_on_one_and_eight():
    values = json.dumps({f"augment__{key}": value for key, value in {**EVERYTHING, **PAIRS, "rand_augment": 2}.items()})
    with ThreadPoolExecutor() as pool:
        one, eight = pool.map(lambda devices: on_devices(devices, CODE, values), (1, 8))
    assert (one["devices"], eight["devices"]) == (1, 8)
    for result in (one, eight):
        assert result["traces"] == 1 and not result["callbacks"] and np.isfinite(result["losses"]).all()
    np.testing.assert_allclose(eight["images"], one["images"], atol=0.01)
    for part in ("losses", "params", "targets"):
        np.testing.assert_allclose(eight[part], one[part], rtol=1e-4, atol=1e-5)
