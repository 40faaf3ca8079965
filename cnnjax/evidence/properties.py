"""The table of what images are like, `eval/<name>-properties.csv`, as columns."""

from collections.abc import Sequence

from cnnjax.errors import CheckpointError
from cnnjax.runs import RunDirectory


def read_properties(run: RunDirectory, name: str, ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """Returns name of a property -> its text for each image; {} where an evaluation has no such table, as of older versions.

    Args:
        run: its directory.
        name: of the evaluation.
        ids: text [n], of the images of the evaluation in their order.

    Raises:
        CheckpointError: the table is damaged, or of other images.
    """
    header, *rows = [*run.read_rows(run.properties(name))] or [["id"]]
    if not rows:
        return {}
    if header[0] != "id" or any(len(row) != len(header) for row in rows) or [row[0] for row in rows] != list(ids):
        raise CheckpointError(f"{run.properties(name)} is not of the images of {run.predictions(name).name}; write both anew with "
                              f"--mode=eval --workdir={run}")  # fmt: skip
    return dict(zip(header[1:], [*zip(*rows, strict=True)][1:], strict=True))
