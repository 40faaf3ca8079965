"""Code of a user's own that a run names: a stranger's run does not make it run here."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.config.own import split_own
from cnnjax.config.sections import KEYS, Data, flatten

STORE = Path(Data().cache_dir) / "own-code"  # whatever cache a run uses: it is the user's word


def remember(config: Mapping[str, Any]) -> None:
    """Notes in the user's cache that a run of this user has used the code of its own that a config names.

    A run's directory may come from somebody else, and its config may name any file; see `unknown`.
    """
    for place in _places(config).values():
        with contextlib.suppress(OSError):  # without a cache it is asked for again
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def unknown(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns key -> "FILE.py:NAME" of code that no run of this user has used as it is now."""
    return {key: value for (key, value), place in _places(config).items() if not place.exists()}


def _places(config: Mapping[str, Any]) -> dict[tuple[str, str], Path]:
    """(key, "FILE.py:NAME") -> the file of the cache that notes this content of FILE.py."""
    found = {}
    for key, value in flatten(config):
        if KEYS[key].own and (own := split_own(value)):
            digest = hashlib.sha256(own[0].read_bytes()).hexdigest() if own[0].is_file() else "none"
            found[key, value] = STORE.expanduser() / digest
    return found
