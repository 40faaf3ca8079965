"""Fixtures of the kernels' tests."""

import pytest
from kernel_rows import SETS, instructions


@pytest.fixture(params=SETS)
def each_set(request) -> str:
    """The test runs once on every instruction set of this CPU."""
    with instructions(request.param):
        yield request.param
