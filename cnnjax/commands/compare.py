"""One verb: compare several runs, as a page and as numbers."""

from collections.abc import Sequence
from pathlib import Path

from cnnjax import evidence, pages, runs
from cnnjax.errors import CheckpointError
from cnnjax.progress import Progress

SHOWN = 6  # answers on the screen; the page has all


def compare_runs(workdirs: Sequence[str | Path], output: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Writes a page with several runs side by side, and its numbers as JSON beside it; returns the path of the page.

    Runs that were judged on the same images are compared in pairs, group by group; runs of one config that differ in the seed alone
    as trainings of one kind. Cross-validations are compared on every image, each by the network that has not seen it.

    Args:
        workdirs: two or more run directories, or those of as many cross-validations.
        output: the page; default `compare-<names>.html` beside the first of them.
        progress: is told the answer.

    Raises:
        CheckpointError: fewer than two, one of them holds no run, an image has two labels, or the page cannot be written.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise CheckpointError("--compare needs two or more different run directories, such as --compare=runs/a,runs/b")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    directories = {name: runs.RunDirectory(path) for name, path in zip(names, paths, strict=True)}
    folds = {name: runs.read_crossvalidation(own) for name, own in directories.items() if runs.is_crossvalidation(own)}
    records = {name: pages.read_record(own) for name, own in directories.items()} if len(folds) < len(directories) else {}
    output = Path(output) if output else paths[0].parent / f"compare-{'-'.join(path.name for path in paths)}.html"
    numbers = output.with_suffix(".json")
    if numbers == output or (numbers.exists() and not output.exists()):
        raise CheckpointError(
            f"the numbers go to {numbers}, which is something else; name a page that ends in .html with --output=FILE"
        )
    runs.check_writable(output.parent, "name another place with --output=FILE")
    comparison = evidence.compare(directories)
    page = pages.comparison_page(records, comparison) if records else pages.crossvalidations_page(folds, comparison)
    pages.write_page(output, page)
    runs.write_json(numbers, comparison.to_dict())
    progress = progress or Progress()
    for answer in comparison.answers[:SHOWN]:
        progress.message(answer)
    if len(comparison.answers) > SHOWN:
        progress.message(f"and {len(comparison.answers) - SHOWN} more on the page")
    return output
