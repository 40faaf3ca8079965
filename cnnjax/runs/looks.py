"""The record of looks at held-out images: each evaluation adds a line, because every look makes the next number a little less honest."""

import dataclasses
import datetime
import json
from typing import Any

from cnnjax.errors import CheckpointError
from cnnjax.inside import read_small
from cnnjax.runs.directory import RunDirectory
from cnnjax.runs.files import damaged_line
from cnnjax.typed import typed


@dataclasses.dataclass(frozen=True)
class HeldOutLook:
    """A line of `looks.jsonl`.

    Attributes:
        time: UTC, as ISO 8601 to the second.
        name: of the evaluation: test, test-<step> or data-<name>.
        step: of the checkpoint.
        images: how many were evaluated.
    """

    time: str
    name: str
    step: int
    images: int


def read_looks(run: RunDirectory) -> list[HeldOutLook]:
    """Returns the looks at held-out images, the first one first; [] where none are noted. Raises CheckpointError for a damaged file."""
    path = run.looks
    run.sealed.check(path)
    if not path.exists():
        return []
    try:
        return [typed(json.loads(line), HeldOutLook, "look") for line in read_small(path).decode().splitlines() if line]
    except (TypeError, ValueError, KeyError, OSError, RecursionError) as error:
        raise CheckpointError(damaged_line(path, error)) from None


def note_look(run: RunDirectory, name: str, step: int, images: int) -> None:
    """Adds a look to `looks.jsonl`. Raises CheckpointError for a damaged file."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    looks: list[dict[str, Any]] = [
        dataclasses.asdict(look) for look in (*read_looks(run), HeldOutLook(now, name, step, images))
    ]
    with run.sealed.replacing(run.looks) as temporary:
        temporary.write_text("".join(f"{json.dumps(look)}\n" for look in looks), encoding="utf-8")
