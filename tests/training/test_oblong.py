"""Images whose height and width differ, from the file to the prediction."""

import jax
import numpy as np
import pytest
from PIL import Image
from training_tools import network_of, one_line, settings

import cnnjax
from cnnjax import models
from cnnjax.commands.explore import explore
from cnnjax.commands.train import train
from cnnjax.config import load_config
from cnnjax.data import resize
from cnnjax.errors import ConfigError
from cnnjax.training import optimizers, state, steps

OBLONG = {"image__size": 20, "image__width": 28}


@pytest.mark.parametrize(
    "overrides",
    [
        {"image.size": "48,96"},
        {"image.size": "(48, 96)"},
        {"image.size": (48, 96)},
        {"image.width": "96", "image.size": "48"},
    ],
)
def test_a_size_of_two_numbers_is_height_and_width(overrides):
    assert load_config("configs/digits.py", overrides).image.shape == (48, 96)


def test_one_number_is_a_square_whatever_the_file_says(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from cnnjax.config import default\ndef get_config(arg=''):\n    config = default()\n    config.data.source = 'digits'\n"
                    "    config.image.size, config.image.width = 48, 96\n    return config\n")  # fmt: skip
    assert load_config(file).image.shape == (48, 96) and load_config(file, {"image.size": "32"}).image.shape == (32, 32)


@pytest.mark.parametrize(("options", "said"), [
    ({"image__width": 3}, "must be between 4 and 4096 pixels, or 0"), ({**OBLONG, "augment__turns": True}, "turns by 90 degrees"),
    ({"image__size": 40, "image__width": 60, "image__zca": True}, "at most 48 pixels"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(options, said):
    with pytest.raises(ConfigError) as error:
        settings(**options)
    assert said in one_line(error)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "pad"])
def test_pictures_are_resized_to_height_and_width(method):
    pixels = np.full((30, 30, 3), 200, np.uint8)
    out = resize(pixels, (20, 28), method)
    assert out.shape == (20, 28, 3)
    if method == "pad":
        assert (out[:, 4:24] == 200).all() and not out[:, :4].any() and not out[:, 24:].any()
    else:
        expected = Image.fromarray(pixels).resize((28, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(out, np.asarray(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model__norm": "batch", "model__padding": ("valid",), "model__channels": (4, 8)},
        {"model__pool_stride": 1},
        pytest.param({"model__name": "resnet18"}, marks=pytest.mark.slow),
        {"augment__rotation": 20.0, "augment__crop_area": 0.5, "augment__cutmix": 1.0},
    ],
)
def test_a_step_by_the_kernels_is_that_of_xla(options):
    found = []
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 20, 28, 3), dtype=np.uint8), "label": np.arange(8, dtype=np.int32) % 2}
    for kernels in ("auto", "xla"):
        config = settings(**OBLONG, **options, runtime__kernels=kernels)
        network = network_of(config, 2)
        tx = optimizers.make_optimizer(config.optimizer, lambda step: 0.01)
        first = jax.jit(lambda n=network, t=tx: state.initial(n, t))()
        step = jax.jit(
            lambda s, b, n=network, t=tx, c=config: steps.train_step(
                s, b, network=n, tx=t, recipe=steps.recipe(c), alone=True
            )
        )
        found.append(step(first, batch))
    (one, said), (other, expected) = found
    assert float(said["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
    moved = [jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).mean(), one.stats, other.stats)]
    assert all(value < 1e-4 for value in jax.tree.leaves(moved))


def test_the_table_has_both_sides():
    rows = models.table(network_of(settings(**OBLONG, model__channels=(4, 8)), 2).model)
    assert [row.shape for row in rows[:4]] == [(20, 28, 4), (10, 14, 4), (10, 14, 8), (5, 7, 8)]
    assert rows[0].mflops == pytest.approx(2 * 20 * 28 * 27 * 4 / 1e6)


@pytest.mark.slow
def test_a_run_trains_is_explored_predicts_and_continues(make, cell_folder, tmp_path):
    config = make(**OBLONG, image__zca=True, augment__rotation=10.0)
    explore(config, tmp_path / "look")
    run = train(config, tmp_path / "run")
    cells = cnnjax.load(tmp_path / "run")
    assert cells.preprocessing.shape == (20, 28) and run.summary["test"]["images"] > 0
    assert cnnjax.evaluate(tmp_path / "run", "test")["loss"] == pytest.approx(run.summary["test"]["loss"], rel=1e-5)
    files = sorted(cell_folder.rglob("*.png"))[:3]
    from_files = cells.predict(files)
    arrays = np.stack([resize(np.asarray(Image.open(file).convert("RGB")), (20, 28), "bilinear") for file in files])
    np.testing.assert_allclose(
        cells.predict_proba(arrays)[:, 0], [p.probabilities["Parasitized"] for p in from_files], atol=1e-5
    )
    assert cells.apply(cells.params, arrays).shape == (3, 1)
    assert (
        train(make(**OBLONG, image__zca=True, augment__rotation=10.0, train__epochs=4), tmp_path / "run").summary["epochs"]
        == 4
    )
