"""Names from outside, joined to directories of ours so that none leads elsewhere, and small files that are read whole."""

import hashlib
import os
import re
import stat
from pathlib import Path

from cnnjax.errors import OutsideError

SMALL = 2**26  # bytes of a file that is read whole


def read_small(path: Path) -> bytes:
    """Returns the bytes of a small file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `SMALL`, or a folder, a pipe or a device, which would be waited for.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(file, "rb") as opened:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        if facts.st_size > SMALL or len(data := opened.read(SMALL + 1)) > SMALL:
            raise ValueError(f"{facts.st_size:,} bytes, more than {SMALL:,}")
        return data


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leaves(name: str) -> bool:
    """Returns whether a relative name, of a member or a key, could lead out of the directory that it is joined to."""
    rooted = name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name)
    return bool(rooted or "\0" in name or name in ("", ".") or ".." in re.split(r"[/\\]", name))


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
