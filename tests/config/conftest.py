"""Fixtures of the config's tests."""

from pathlib import Path

import pytest


@pytest.fixture
def configs(repository) -> Path:
    """The folder of the bundled config files."""
    return repository / "configs"
