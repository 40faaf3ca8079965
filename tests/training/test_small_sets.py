"""Sets of 20 to 200 images with batch normalisation: what can be learned is learned, and seen by evaluation."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from training_tools import Said, network_of, settings

from cnnjax.commands.train import train
from cnnjax.config import load_config
from cnnjax.training.early_stopping import epochs_of

COLOURS = ((120, 20, 20), (20, 120, 20))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Noise of two colours, as many images as asked for: a set that one look tells apart."""

    def folder(images):
        root = tmp_path_factory.mktemp(f"small{images}")
        rng = np.random.default_rng(images)
        for i in range(images):
            own = root / ("red", "green")[i % 2]
            own.mkdir(exist_ok=True)
            Image.fromarray((rng.integers(0, 90, (24, 24, 3)) + COLOURS[i % 2]).astype(np.uint8)).save(own / f"{i:03}.png")
        return root

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "batch_size"),
    [
        (80, 8),
        *(pytest.param(n, b, marks=pytest.mark.slow) for n, b in ((20, 32), (200, 64))),
    ],
)
def test_two_colours_are_told_apart_by_the_config_for_folders(small, without_pictures, tmp_path, images, batch_size):
    config = load_config("configs/folder.py", {"data.path": str(small(images)), "data.cache_dir": str(tmp_path / "cache"),
                                               "data.batch_size": batch_size, "image.size": 32, "train.scales": "()", "train.epochs": 12})  # fmt: skip
    summary = train(config, tmp_path / "run").summary
    assert summary["test"]["accuracy"] == summary["val"]["accuracy"] == 1.0


def test_running_averages_are_means_of_the_first_updates_and_then_what_they_were():
    network = network_of(settings(image__size=8, model__channels=(3,), model__norm="batch"), 2)
    _, stats = jax.jit(network.make)()
    rng, seen, plain, mine = np.random.default_rng(0), [], stats, stats
    for t in range(30):
        value = jax.tree.map(lambda x: rng.normal(3, 1, x.shape).astype(np.float32), stats)
        seen.append(value)
        moved = [jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, kept, value) for kept in (plain, mine)]
        plain, mine = moved[0], network.settled(mine, moved[1], np.int32(t))
        if t < 9:
            jax.tree.map(lambda x, *all: np.testing.assert_allclose(x, np.mean(all, axis=0), rtol=1e-4), mine, *seen)
        else:
            jax.tree.map(np.testing.assert_array_equal, mine, moved[1])
    assert not np.allclose(plain["norm_conv1"]["mean"], mine["norm_conv1"]["mean"], atol=1e-3), (
        "the start at 0 is still in the one"
    )


def test_averages_of_every_module_with_batch_normalisation_are_settled():
    network = network_of(settings(model__name="resnet18", image__size=32), 3)
    _, stats = jax.eval_shape(network.make)
    norms = [path for path, module in nnx.iter_modules(network.model) if isinstance(module, nnx.BatchNorm)]
    zero, one = (jax.tree.map(lambda x, v=v: np.full(x.shape, v, np.float32), stats) for v in (0, 0.1))
    found = jax.tree.leaves(network.settled(zero, one, np.int32(0)))
    assert len(found) == 2 * len(norms) == 40
    for leaf in found:
        np.testing.assert_allclose(leaf, 1, rtol=1e-5)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 80), (2, 40), (7, 12), (8, 10), (100, 10)])
def test_patience_of_short_epochs_is_meant_as_more_of_them(steps, epochs):
    assert epochs_of(10, steps) == epochs and epochs_of(0, steps) == 0


def test_longer_patience_is_said(small, without_pictures, tmp_path):
    said = Said()
    config = settings(data__path=str(small(20)), data__cache_dir=str(tmp_path / "cache"), image__size=8, model__channels=(2,),
                      model__dense=(4,), train__epochs=1)  # fmt: skip
    train(config, tmp_path / "run", progress=said)
    assert "  an epoch has 1 step only: train.patience=10 is meant as 80 epochs" in said.lines
