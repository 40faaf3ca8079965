"""A directory for one writer at a time, and none left behind by work that failed at its start."""

import contextlib
import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from cnnjax.errors import CheckpointError
from cnnjax.runs.files import check_writable


@contextlib.contextmanager
def locked(directory: Path, lock: Path) -> Iterator[None]:
    """Holds the lock file of a run directory. The lock of a process that has died is free.

    Raises:
        CheckpointError: the directory cannot be written, or another process holds the lock.
    """
    check_writable(directory, "use another --workdir")
    with open(lock, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(f"{directory} is in use by another run ({file.read().strip()}); wait until it ends, or use "
                                  "another --workdir") from None  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems have no locks
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def begun(directory: Path) -> Iterator[None]:
    """Surrounds the start of work. After an error, the empty directories that were made for it are removed."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
