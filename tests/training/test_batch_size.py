"""The batch size that a run chooses for itself."""

import json

import pytest
from training_tools import Said, one_line, settings

from cnnjax import runtime
from cnnjax.commands.train import train
from cnnjax.config import load_config
from cnnjax.errors import ConfigError
from cnnjax.training import batch_size


def small(**options):
    return settings(
        image__size=8, model__channels=(4,), model__dense=(8,), runtime__kernels="xla", data__batch_size="auto", **options
    )


def test_auto_is_a_word_for_the_batch_size_alone():
    assert load_config("configs/digits.py", {"data.batch_size": "Auto"}).data.auto_batch
    with pytest.raises(ConfigError) as error:
        load_config("configs/digits.py", {"data.batch_size": "many"})
    assert "must be a whole number, such as 32, or auto" in one_line(error)
    with pytest.raises(ConfigError):
        load_config("configs/digits.py", {"train.patience": "auto"})


@pytest.mark.slow
def test_the_largest_batch_is_the_last_that_fits():
    mesh, config = runtime.mesh(), small()
    need = {size: batch_size.step_bytes(batch_size._sized(config, size), mesh) for size in (8, 16, 32)}
    assert 0 < need[8] < need[16] < need[32]
    assert batch_size.largest(config, mesh, int(need[16] / 0.8) + 1) == 16
    assert batch_size.largest(config, mesh, int(need[16] / 0.8) - 8) == 8
    assert batch_size.largest(config, mesh, 0) == 1
    assert batch_size.largest(small(train__accumulate=3), mesh, int(need[16] / 0.8)) % 3 == 0


def test_there_is_a_largest_batch_whatever_the_memory(monkeypatch):
    monkeypatch.setattr(batch_size, "step_bytes", lambda config, mesh: config.data.batch_size)
    assert batch_size.largest(small(), runtime.mesh(), 2**40) == batch_size.MOST


def test_a_run_on_a_cpu_takes_32_says_it_and_goes_on_with_it(make, without_pictures, tmp_path):
    said, config = Said(), make(data__batch_size="auto", train__epochs=1)
    train(config, tmp_path / "run", progress=said)
    assert "  data.batch_size=auto: 32 images in each step" in said.lines
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["batch_size"] == 32
    again = Said()
    train(config, tmp_path / "run", progress=again)
    train(make(data__batch_size=32, train__epochs=1), tmp_path / "run", progress=again)
    assert sum("is finished" in line for line in again.lines) == 2


def test_a_run_that_has_begun_keeps_its_number(make, without_pictures, tmp_path):
    train(make(data__batch_size=16, train__epochs=1), tmp_path / "run")
    said = Said()
    train(make(data__batch_size="auto", train__epochs=1), tmp_path / "run", progress=said)
    assert len(said.lines) == 1 and "is finished" in said.lines[0]
