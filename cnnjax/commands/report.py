"""One verb: write the page of a run, and its card."""

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


def write_card(workdir: str | Path, output: str | Path | None = None) -> tuple[Path, list[str]]:
    """Writes the card of a run for reviewers, as Markdown, and its page anew.

    What was filled in in the card that is there stays.

    Args:
        workdir: the run directory.
        output: the card; default `card.md` in the run directory.

    Returns:
        The card, and the lines that are still to fill in.

    Raises:
        CheckpointError: the directory holds no run, the run was not evaluated, a file of it is damaged, or the card is another file.
    """
    run = runs.RunDirectory(workdir)
    path = Path(output) if output else run.card
    runs.check_writable(path.parent, "name another place with --output=FILE")
    text = pages.card_text(pages.read_record(run), pages.read_card(path))
    runs.write_text(path, text)
    if not output:
        write_report(workdir)
    return path, pages.unanswered(path)
