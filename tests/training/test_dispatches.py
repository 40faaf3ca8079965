"""Dispatches and waits of the host: as many on eight devices as on one, and as few as docs/scaling.md says."""

import numpy as np
import pytest
from counted_training import AT_ONCE, EPOCHS
from small_loops import BATCH, TRAIN, VAL, drawn_data
from training_tools import on_devices, settings

from cnnjax import inference, runtime, training
from cnnjax.progress import Progress

CODE = "import sys; sys.path.append('tests/training'); from counted_training import main; main()"
STEPS, BATCHES, COUNTED = TRAIN // BATCH, 2, EPOCHS - 1


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return on_devices(8, CODE, tmp_path_factory.mktemp("counts"))


def test_devices_and_placement_change_no_number(counts):
    for found in counts.values():
        np.testing.assert_allclose(found["numbers"], counts["host 1"]["numbers"], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("placement", "trained", "evaluated"), [("host", STEPS, BATCHES), ("device", STEPS // AT_ONCE, 1)])
def test_dispatches_and_waits_do_not_grow_with_the_devices(counts, placement, trained, evaluated):
    one, eight = ({**counts[f"{placement} {devices}"], "numbers": []} for devices in (1, 8))
    assert one == eight
    rates, evaluation = one["dispatches"].pop("schedule"), one["dispatches"].pop("<lambda>")
    assert (rates, evaluation, one["dispatches"]) == (COUNTED, COUNTED * evaluated, {"train": COUNTED * trained})
    # The rates of the epoch, the metrics of each dispatch, the sums of the epoch, the logits.
    assert one["loop"] == COUNTED * (1 + trained + 1 + evaluated)


@pytest.mark.parametrize("at_once", [1, 4])
def test_stored_images_are_evaluated_once_each_as_from_the_host(monkeypatch, at_once):
    monkeypatch.setattr(runtime, "steps_at_once", lambda mesh: at_once)
    config = settings(image__size=8, model__channels=(2,), model__dense=(4,), data__placement="device")
    data, mesh = drawn_data(), runtime.mesh()
    plan = training.make_plan(config, mesh, 2, TRAIN)
    first = plan.steps.first()
    model = inference.evaluated(first.params, first.stats, {})
    stored = inference.Stored(data.images, data.splits["val"], BATCH, mesh)
    found = stored.logits(plan.steps.stored, model)
    host = inference.Engine(plan.steps.plain, model, mesh).logits_of_rows(data.images, data.splits["val"], BATCH)
    assert found.shape == (VAL, 1) and host.std() > 0.01
    np.testing.assert_allclose(found, host, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("free", "stored"), [(0, []), (TRAIN + 127, ["train"]), (TRAIN + 129, ["train", "val"])])
def test_validation_images_are_stored_where_they_fit_beside_those_of_training(monkeypatch, free, stored):
    """Two batches of 64 are stored for 100 images: 128 with the padding."""
    monkeypatch.setattr(runtime, "device_bytes", lambda: (0, free * 8 * 8 * 3 / 0.4))
    config, said = settings(image__size=8, model__channels=(2,), model__dense=(4,), data__batch_size=BATCH), []
    data, mesh = drawn_data(), runtime.mesh()
    progress = Progress()
    progress.message = said.append
    assert list(training.stored_images(config, mesh, TRAIN, VAL)) == stored
    training.open_validation(data, training.make_plan(config, mesh, 2, TRAIN), mesh, BATCH, -1, progress)
    assert len(said) == ("val" in stored)


def test_the_memory_of_stored_images_is_reckoned_with_their_padding():
    data, mesh = drawn_data(), runtime.mesh()
    stored = inference.Stored(data.images, data.splits["val"], BATCH, mesh)
    assert stored._images.nbytes == inference.stored_bytes(VAL, (8, 8), BATCH, mesh) == 128 * 8 * 8 * 3
