"""Phases of a training: images of growing sizes, and the number of epochs that follows from the images."""

import json
import math

import numpy as np
import pytest
from training_tools import Said, network_of, settings

from cnnjax import load_config, runtime
from cnnjax.commands.train import train
from cnnjax.errors import CheckpointError, ConfigError, Stopped
from cnnjax.training import finetuning, phases, with_epochs
from cnnjax.training.plan import make_plan

# A network that averages over all places, and so takes images of any size.
AVERAGING = """
from flax import nnx
from cnnjax.models import Layer, Layered

class Averaging(Layered):
    reads = ()

    def __init__(self, outputs, section, *, preprocessing, dtype, ops, rngs):
        super().__init__(preprocessing, dtype, ops)
        self.conv = nnx.Conv(3, 4, (3, 3), padding="SAME", dtype=dtype, rngs=rngs)
        self.outputs = nnx.Linear(4, outputs, dtype=dtype, rngs=rngs)
        self.layers += (Layer("conv", "conv", "conv", relu=True), Layer("average", "average"), Layer("outputs", "dense", "outputs"))
"""


@pytest.fixture(scope="module")
def averaging(tmp_path_factory):
    """The name of that network."""
    path = tmp_path_factory.mktemp("own") / "averaging.py"
    path.write_text(AVERAGING)
    return f"{path}:Averaging"


def found(steps_per_epoch=10, **options):
    """(end, whether some parameters are frozen, shape) of each phase of a convnet."""
    config = settings(**{"model__channels": (4,), "model__dense": (4,), "image__size": 32, **options})
    tx = finetuning.tuned_optimizer(config, network_of(config, 3), lambda step: 1e-3, steps_per_epoch)
    return [(phase.end, bool(phase.frozen), phase.shape) for phase in phases.find_phases(config, tx, steps_per_epoch)]


def test_scales_share_the_epochs_and_an_unfreezing_is_a_phase_of_its_own():
    assert found() == [(math.inf, False, (32, 32))]
    assert found(train__scales=(0.5, 0.75, 1.0), train__epochs=6) == [
        (20, False, (16, 16)), (40, False, (24, 24)), (math.inf, False, (32, 32))]  # fmt: skip
    thawed = {"train__freeze": "backbone", "train__unfreeze_epoch": 3, "train__epochs": 4}
    assert found(**thawed) == [(20, True, (32, 32)), (math.inf, False, (32, 32))]
    assert found(train__scales=(0.5, 1.0), **thawed) == [(20, True, (16, 16)), (math.inf, False, (32, 32))]
    thawed["train__unfreeze_epoch"] = 2
    assert found(train__scales=(0.5, 1.0), **thawed) == [
        (10, True, (16, 16)),
        (20, False, (16, 16)),
        (math.inf, False, (32, 32)),
    ]
    assert found(train__scales=(0.5,), image__width=64)[0][2] == (16, 32)


def test_small_images_are_antialiased_and_those_of_the_right_size_untouched():
    stripes = np.zeros((1, 8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert phases.resized(stripes, (8, 8)) is stripes
    small = np.asarray(phases.resized(stripes, (4, 4)))
    assert small.shape == (1, 4, 4, 3) and small[:, 1:-1].std() < 1
    assert abs(small.mean() - 100) < 15


def test_a_step_of_each_phase_sees_images_of_its_size(averaging, make, monkeypatch):
    config = make(model__name=averaging, train__scales=(0.5, 0.75, 1.0), train__epochs=3, image__size=16)
    plan = make_plan(config, runtime.mesh(), 2, 40)
    shapes = []
    monkeypatch.setattr(
        "cnnjax.training.steps.resized", lambda images, shape: shapes.append(shape) or phases.resized(images, shape)
    )
    batch = {"image": np.zeros((plan.batch_size, 16, 16, 3), np.uint8), "label": np.zeros(plan.batch_size, np.int32)}
    for epoch in range(3):
        plan.steps.at(epoch * plan.steps_per_epoch)[1].lower(plan.steps.abstract, batch, None)
    assert shapes == [(8, 8), (12, 12), (16, 16)]


@pytest.mark.slow
def test_a_run_stopped_in_a_later_phase_continues_bit_for_bit(averaging, make, tmp_path, without_pictures):
    config = make(model__name=averaging, train__scales=(0.5, 1.0), train__epochs=4, train__patience=0, image__size=16)
    said = Said()
    whole = train(config, tmp_path / "whole", progress=said)
    assert sum("images of 16x16 pixels from here (train.scales)" in line for line in said.lines) == 1
    steps = whole.summary.steps // 4

    class Counter:
        polls = 0

        def __call__(self):
            self.polls += 1
            return self.polls > 2 * steps + steps // 2 + 1

    with pytest.raises(Stopped):
        train(config, tmp_path / "cut", stop=Counter())
    again = train(config, tmp_path / "cut")
    assert again.history == whole.history or [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in again.history
    ] == [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in whole.history]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train.scales": (0.5, 2.0)}, "train.scales=(0.5, 2.0): must hold numbers of above 0 and at most 1"),
        ({"train.scales": (0.3, 0.6, 1.0), "train.epochs": 2}, "train.scales=(0.3, 0.6, 1.0): are more than train.epochs=2"),
    ],
)  # fmt: skip
def test_wrong_scales(options, said):
    with pytest.raises(ConfigError) as caught:
        load_config("configs/digits.py", options)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("epochs", "shapes"), [(1, [(48, 48)]), (2, [(32, 32), (56, 56)]), (5, [(32, 32), (48, 48), (56, 56)])]
)
def test_scales_of_a_recipe_share_even_one_epoch(epochs, shapes):
    config = load_config("configs/folder.py", {"data.path": "x", "image.size": 64, "train.epochs": epochs})
    found = make_plan(config, runtime.mesh(), 3, 100)
    parts = phases.find_phases(config, found.tx, found.steps_per_epoch)
    seen = [next(p.shape for p in parts if step < p.end) for step in range(epochs * found.steps_per_epoch)]
    assert list(dict.fromkeys(seen)) == shapes


def test_a_network_for_one_size_is_refused_in_one_line():
    config = settings(image__size=32, model__channels=(4,), model__dense=(4,), train__scales=(0.5, 1.0))
    with pytest.raises(
        ConfigError,
        match=r"^train.scales=0.5,1.0: convnet does not take images of 16x16 pixels beside those of 32x32; use .*resnet18[^\n]*$",
    ):
        make_plan(config, runtime.mesh(), 3, 100)


@pytest.mark.parametrize(("images", "epochs"), [(1000, 20), (80, 250), (10, 300), (27_558, 5), (1, 300)])
def test_epochs_follow_from_the_number_of_images(images, epochs):
    config = load_config("configs/digits.py", {"train.epochs": "auto", "train.shown": 20_000})
    assert with_epochs(config, images).train.epochs == epochs
    chosen = load_config("configs/digits.py", {"train.epochs": 7})
    assert with_epochs(chosen, images) is chosen


def test_a_run_keeps_its_number_of_epochs(make, tmp_path, without_pictures):
    config, said = make(train__epochs="auto", train__shown=1), Said()
    run = train(config, tmp_path / "run", progress=said)
    assert run.summary.epochs == 5
    assert [line for line in said.lines if "train.epochs=auto: 5 epochs, which show" in line]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["epochs"] == 5
    assert train(config, tmp_path / "run").summary == run.summary  # finished
    with pytest.raises(CheckpointError, match="another config"):
        train(make(train__epochs="auto", train__shown=1, seed=7), tmp_path / "run")
