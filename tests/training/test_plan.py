"""Work done ahead is what the run needs; where a run needs something else, it is made."""

import jax
import numpy as np
import pytest
from training_tools import settings

from cnnjax import runtime
from cnnjax.commands.train import train
from cnnjax.data import dataset
from cnnjax.progress import Progress
from cnnjax.training import feeds as pipeline
from cnnjax.training.plan import Ahead, choose_batch_size

IMAGES = 30
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def compilations():
    """Names of events of JAX's compiler, from now on."""
    heard = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: heard.append(event))
    yield lambda: sum("backend_compile" in event for event in heard)
    jax.monitoring.clear_event_listeners()


def config(**overrides):
    return settings(image__size=8, model__channels=(4,), model__dense=(8,), data__batch_size=8, optimizer__schedule="cosine",
                    model__dropout_dense=0.5, **overrides)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("most", [1, 3])
def test_what_was_compiled_ahead_is_not_compiled_again(compilations, monkeypatch, placement, most):
    monkeypatch.setattr(runtime, "steps_at_once", lambda mesh: most)
    chosen, mesh = config(data__placement=placement), runtime.mesh()
    ahead = Ahead(chosen, mesh)
    ahead.compile(3, IMAGES)
    plan = ahead.plan(3, IMAGES)
    images, labels = np.zeros((IMAGES, 8, 8, 3), np.uint8), np.arange(IMAGES, dtype=np.int32) % 3
    batches = pipeline.TrainBatches(images, labels, np.arange(IMAGES), batch_size=8, seed=0)
    feed = pipeline.DeviceFeed(batches, mesh, most) if placement == "device" else pipeline.HostFeed(batches, mesh)
    batch = feed.take(1)
    before = compilations()
    assert before
    current, values = plan.steps.train(plan.steps.first(), batch, feed.resident)
    assert np.isfinite(values["loss"]).all() and int(current.step) == 1
    assert compilations() == before


@pytest.mark.parametrize(
    "wanted, accumulate, images, taken",
    [(8, 1, 30, 8), (32, 1, 32, 32), (32, 1, 31, 31), (256, 1, 30, 30), (70, 7, 64, 63), (8, 4, 3, 4)],
)
def test_a_batch_is_no_larger_than_what_there_is(wanted, accumulate, images, taken):
    chosen = settings(data__batch_size=wanted, train__accumulate=accumulate)
    assert choose_batch_size(chosen, runtime.mesh(), images) == taken


def test_a_plan_that_does_not_fit_is_made_anew():
    ahead = Ahead(config(), runtime.mesh())
    ahead.compile(3, IMAGES)
    other = ahead.plan(2, 17)
    assert (other.classes, other.images, other.steps_per_epoch) == (2, 17, 3)


def test_it_begins_where_images_must_be_decoded_and_a_run_ends_the_same(make, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(Ahead, "compile", lambda self, *numbers: begun.append(numbers))
    config = make(train__epochs=1, data__cache_dir=str(tmp_path / "cache"))
    without = train(config, tmp_path / "without")
    images = len(dataset.prepare(config, tmp_path / "without", Progress(), freeze=False).splits["train"])
    assert begun == [(2, images)]
    train(config, tmp_path / "cached")
    assert len(begun) == 1
    monkeypatch.undo()
    ahead = train(make(train__epochs=1, data__cache_dir=str(tmp_path / "other")), tmp_path / "ahead")
    assert {ahead[key] == without[key] for key in ("steps", "train", "val", "test")} == {True}
