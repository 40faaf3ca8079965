"""Training images on the device: the same batches, the same run, several updates at once."""

import json
import re
from types import SimpleNamespace

import jax
import pytest
from training_tools import read_rows, settings

from cnnjax import runtime
from cnnjax.commands.describe import describe
from cnnjax.commands.train import train
from cnnjax.errors import Stopped
from cnnjax.training import plan, steps
from cnnjax.training.saver import Saver

pytestmark = pytest.mark.usefixtures("without_pictures")
# 64 images in batches of 12: batches reach over the end of an epoch.
OPTIONS = {"data__batch_size": 12, "model__dropout_dense": 0.3, "augment__flip_horizontal": True, "model__norm": "batch"}
NUMBERS = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy")


@pytest.fixture(scope="module")
def run(make, tmp_path_factory):
    """Trains in a new directory, with `most` updates at once; returns it."""
    place = tmp_path_factory.mktemp("placement")

    def start(name, placement, most=1, stop_at=0, **options):
        workdir = place / name
        log = workdir / "metrics.jsonl"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "steps_at_once", lambda mesh: most)
            stop = (lambda: log.exists() and len(log.read_text().splitlines()) >= stop_at) if stop_at else lambda: False
            train(make(data__placement=placement, **{**OPTIONS, **options}), workdir, stop=stop)
        return workdir

    return start


@pytest.fixture(scope="module")
def from_host(run):
    return run("host", "host")


@pytest.fixture(scope="module")
def four_at_once(run):
    return run("four", "device", 4)


def logged(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def history(workdir):
    return [[row[k] for k in NUMBERS] for row in read_rows(workdir / "history.csv")]


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 4])
def test_the_placement_changes_no_number(run, from_host, four_at_once, most):
    workdir = four_at_once if most == 4 else run("one", "device")
    for row, expected in zip(logged(workdir), logged(from_host), strict=True):
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 6, 9])
def test_a_run_with_several_updates_at_once_continues_bit_for_bit(run, four_at_once, stop_at):
    name = f"stopped{stop_at}"
    with pytest.raises(Stopped):
        run(name, "device", 4, stop_at)
    workdir = run(name, "device", 4)
    assert logged(workdir) == logged(four_at_once)
    assert history(workdir) == history(four_at_once)


def test_a_run_moves_between_host_and_device(run, from_host):
    with pytest.raises(Stopped):
        run("moved", "host", 1, 5)
    workdir = run("moved", "device", 4)
    for row, expected in zip(logged(workdir), logged(from_host), strict=True):
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-4)


def test_saves_come_at_their_steps(run, monkeypatch):
    saved = []
    save = Saver.save
    monkeypatch.setattr(Saver, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest)))
    run("saves", "device", 4, train__checkpoint_every="5 steps", train__epochs=2)
    assert saved == [5, 6, 10, 12]  # and each epoch of six


def test_several_updates_at_once_compile_once(run, monkeypatch):
    made = []
    compile_steps = steps.compile_steps
    monkeypatch.setattr(steps, "compile_steps", lambda *a: made.append(compile_steps(*a)) or made[-1])
    run("compiled", "device", 4)
    assert [one.train._cache_size() for one in made] == [1]


def test_an_accelerator_says_what_it_has_and_what_is_free(monkeypatch):
    stats = {"bytes_limit": 100 << 20, "bytes_in_use": 50 << 20}
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert runtime.device_bytes() == (100 << 20, 50 << 20)
    stats.clear()  # some devices do not say
    assert runtime.device_bytes() == (0, 0)


@pytest.mark.parametrize(
    ("free", "resident"), [(1000 * 8 * 8 * 3 / 0.4 + 8, True), (1000 * 8 * 8 * 3 / 0.4 - 8, False), (0, False)]
)
def test_images_that_take_less_than_two_fifths_of_it_lie_there(monkeypatch, free, resident):
    monkeypatch.setattr(runtime, "device_bytes", lambda: (0, free))
    config = settings(image__size=8, model__channels=(2,), model__dense=(4,))
    assert plan.make_plan(config, runtime.mesh(), 2, 1000).resident is resident


def test_a_cpu_keeps_the_images_where_they_are(run, from_host, tmp_path):
    assert runtime.device_bytes() == (0, 0)
    assert logged(run("auto", "auto")) == logged(from_host)


def test_a_description_has_the_memory_of_the_images_that_are_stored(make, tmp_path):
    text = describe(make(data__placement="device"), tmp_path)
    train, val = (float(re.search(rf"  {name} images +([\d.]+) MB", text)[1]) for name in ("training", "validation"))
    assert train == pytest.approx(64 * 16 * 16 * 3 / 1e6, abs=0.005)
    assert val == pytest.approx(32 * 16 * 16 * 3 / 1e6, abs=0.005)  # 16 images in a batch of 32
    assert "training images" not in describe(make(data__placement="host"), tmp_path)
