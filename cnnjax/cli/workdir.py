"""The run directory of the command line: a local path, or the local copy of one at an address such as gs://bucket/run."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax import config as config_lib
from cnnjax.cli.distributed import is_distributed
from cnnjax.errors import ConfigError, DataError
from cnnjax.progress import Progress
from cnnjax.runs import Mirror, RunDirectory, is_remote, short_name


def default_workdir(name: str, data: str) -> str:
    """Returns the run directory where none is named: `runs/<config>`, or `runs/<config>-<data>` of data that was named.

    Args:
        name: of the config, with its variant.
        data: path that the user has given; "" without one.
    """
    plain = Path("runs") / name
    held = RunDirectory(plain).config
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a run of an older version stays where it is
        if not data or json.loads(held.read_text(encoding="utf-8"))["data"]["path"] == data:
            return str(plain)
    return f"{plain}-{short_name(data)}"


@contextlib.contextmanager
def local_workdir(workdir: str, cache_dir: str, progress: Progress) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yields the local run directory, and a function that copies the directory to its address.

    Args:
        workdir: a path, or an address such as gs://bucket/run.
        cache_dir: holds the local copy of an address; "": the default of data.cache_dir.
        progress: hears of a copy that failed. The last copy raises instead.

    Raises:
        ConfigError: an address on several processes.
        DataError: the address cannot be read or written.
    """
    if not is_remote(workdir):
        yield Path(workdir), lambda: None
        return
    if is_distributed():
        raise ConfigError(f"--workdir={workdir}: several processes need a directory that all hosts see; mount the bucket")
    mirror = Mirror(workdir, Path(cache_dir or config_lib.default().data.cache_dir).expanduser())
    mirror.pull()

    def push() -> None:
        try:
            mirror.push()
        except DataError as error:  # the next one may succeed, and the last one must
            progress.warn(str(error))

    try:
        yield mirror.local, push
    finally:
        mirror.push()
