"""One verb: write a page with several runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from cnnjax import pages, runs
from cnnjax.errors import CheckpointError


def compare_runs(workdirs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Writes a page with several runs side by side; returns its path.

    Args:
        workdirs: two or more run directories.
        output: the page; default `compare-<names>.html` beside the first of them.

    Raises:
        CheckpointError: fewer than two, one of them holds no run, or the page cannot be written.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise CheckpointError("--compare needs two or more different run directories, such as --compare=runs/a,runs/b")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    records = {name: pages.read_record(runs.RunDirectory(path)) for name, path in zip(names, paths, strict=True)}
    output = Path(output) if output else paths[0].parent / f"compare-{'-'.join(path.name for path in paths)}.html"
    runs.check_writable(output.parent, "name another place with --output=FILE")
    pages.write_page(output, pages.comparison_page(records))
    return output
