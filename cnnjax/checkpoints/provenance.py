"""Where a checkpoint comes from: versions of packages, and the commit of this one."""

import contextlib
import functools
import importlib.metadata
import subprocess
from pathlib import Path

PACKAGES = ("cnnjax", "jax", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that a checkpoint depends on."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def revision() -> str:
    """Returns the git commit of this package, with "+" where files have changed since; "" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
