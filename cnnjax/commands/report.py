"""One verb: write the page of a run."""

from pathlib import Path

from cnnjax import pages, runs


def write_report(workdir: str | Path, output: str | Path | None = None) -> Path:
    """Writes the page of a run, finished or under way, or of a cross-validation; returns its path.

    Args:
        workdir: the run directory.
        output: the page; default `report.html` in the run directory.

    Raises:
        CheckpointError: the directory holds no run, a file of it is damaged, or the page cannot be written.
    """
    run = runs.RunDirectory(workdir)
    if runs.is_crossvalidation(run):
        page = pages.crossvalidation_page(run, runs.read_crossvalidation(run))
    else:
        page = pages.report_page(pages.read_record(run))
    path = Path(output) if output else run.report
    runs.check_writable(path.parent, "name another place with --output=FILE")
    pages.write_page(path, page)
    return path
