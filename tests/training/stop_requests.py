"""Requests to stop a run at a moment that a test chooses."""


def after_lines(workdir, count):
    """A stop request as soon as metrics.jsonl has so many lines; the step is one further."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and len(path.read_text().splitlines()) >= count
