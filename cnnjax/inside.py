"""Names from outside, joined to directories of ours so that none leads elsewhere."""

import os
import re
from pathlib import Path

from cnnjax.errors import OutsideError


def leaves(name: str) -> bool:
    """Returns whether a relative name, of a member or a key, could lead out of the directory that it is joined to."""
    rooted = name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name)
    return bool(rooted or "\0" in name or not name or ".." in re.split(r"[/\\]", name))


def inside(directory: str | os.PathLike[str], name: str) -> Path:
    """Joins a name to a directory; no part of the name is a link, whatever the directory itself is.

    Args:
        directory: ours.
        name: of a file or a folder in it, with "/"; from a remote listing, an archive, a file of a run.

    Raises:
        OutsideError: it leads out of the directory.
    """
    if leaves(name):
        raise OutsideError(
            f"{name!r} leads out of {directory}; it is not followed: get the files again from where you trust them"
        )
    path = Path(directory)
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise OutsideError(
                f"{path} is a link, and links inside {directory} are not followed; put the files themselves there"
            )
    return path
