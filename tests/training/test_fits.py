"""A batch that has no room is refused before anything is decoded, with one that has."""

import pytest
from training_tools import one_line, settings

from cnnjax import runtime
from cnnjax.errors import ConfigError
from cnnjax.training import batch_size


def small(size: int):
    return settings(image__size=32, model__channels=(4,), model__dense=(8,), runtime__kernels="xla", data__batch_size=size)


def test_a_batch_that_has_no_room_names_one_that_has(monkeypatch):
    mesh = runtime.mesh()
    need = batch_size.step_bytes(small(64), mesh)
    monkeypatch.setattr(runtime, "host_bytes", lambda: need // 2)
    with pytest.raises(
        ConfigError, match=r"data.batch_size=64: a step takes .* GB, there are .*; use --config.data.batch_size=\d+"
    ) as error:
        batch_size.check_fits(small(64), mesh, 1000)
    fits = int(one_line(error).partition("--config.data.batch_size=")[2].partition(",")[0])
    assert 16 <= fits < 32
    batch_size.check_fits(small(fits), mesh, 1000)
    batch_size.check_fits(small(64), mesh, fits)  # of few images a step takes no more than there are


def test_a_batch_that_surely_has_room_is_not_compiled_for_that(monkeypatch):
    monkeypatch.setattr(batch_size, "step_bytes", lambda config, mesh: pytest.fail("compiled"))
    batch_size.check_fits(small(32), runtime.mesh(), 1000)
