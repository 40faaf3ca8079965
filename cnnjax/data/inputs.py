"""Images to predict, as people name them: files, folders, globs, archives and tables."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.listings import ARCHIVES, FileReference, Reference, list_files
from cnnjax.data.tables import find_files, is_table
from cnnjax.errors import DataError
from cnnjax.progress import counted


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Images to predict.

    Attributes:
        count: how many.
        stream: () -> (name, reference), again at each call; one archive after the other, each in its own order.
        others: files of folders and archives that are told by their names not to be pictures, and left out.
        warnings: lines about archives that end early, and about members that are not read.
    """

    count: int
    stream: Callable[[], Iterator[tuple[str, Reference]]]
    others: int
    warnings: tuple[str, ...] = ()


def find_inputs(given: Iterable[str]) -> Inputs:
    """Finds images by what a user names.

    Loose files come first, sorted, each once: those that are named, those below folders (links to folders are followed) and those of
    globs. Hidden files, files of systems and what a name tells to be something else than a picture are left out of folders and
    archives, as in training. Then come the members of archives, as ARCHIVE/member, and the files that tables name.

    Raises:
        DataError: one of the inputs leads to no file, an archive is damaged from its beginning, or a table has no column of files.
    """
    loose: set[str] = set()
    groups: list[tuple[int, Callable[[], Iterator[tuple[str, Reference]]]]] = []
    others, warnings = 0, []
    for name in dict.fromkeys(map(os.path.expanduser, given)):
        if os.path.isdir(name):
            inside, count = _files_below(name)
            loose.update(inside)
            others += count
            found = bool(inside)
        elif os.path.isfile(name) and is_table(name):
            files = find_files(Path(name))
            groups.append((len(files), lambda files=files: ((path, FileReference(path)) for path in files)))
            found = bool(files)
        elif os.path.isfile(name) and name.lower().endswith(ARCHIVES):
            count, stream, left, said = _members(name)
            groups.append((count, stream))
            others += left
            warnings += said
            found = count > 0
        else:
            inside = (
                [name]
                if os.path.isfile(name)
                else [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
            )
            loose.update(inside)
            found = bool(inside)
        if not found:
            raise DataError(f"--input={name}: no such file, folder, archive or table with files, or files that match; quote a glob, "
                            "as in --input='cells/*.png'")  # fmt: skip
    paths = sorted(loose)

    def stream() -> Iterator[tuple[str, Reference]]:
        yield from ((path, FileReference(path)) for path in paths)
        for _, members in groups:
            yield from members()

    return Inputs(len(paths) + sum(count for count, _ in groups), stream, others, tuple(warnings))


def _files_below(folder: str) -> tuple[list[str], int]:
    """The paths of what may be pictures below a folder, and the number of other files."""
    found, others, seen = [], 0, set()
    for directory, names, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(directory)) in seen:  # a link to a folder above would never end
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if not is_system(name)]
        ours = [name for name in files if not is_system(name)]
        pictures = [name for name in ours if not is_other(name)]
        others += len(ours) - len(pictures)
        found += [os.path.join(directory, name) for name in pictures]
    return found, others


def _members(archive: str) -> tuple[int, Callable[[], Iterator[tuple[str, Reference]]], int, list[str]]:
    """The number of pictures in an archive, the way to them, the number of other files, and lines about what is not read."""
    files = list_files(Path(archive), partial=True)
    ours = {number: name for number, name in enumerate(files.names) if not is_system(name)}
    wanted = {number: f"{archive}/{name}" for number, name in ours.items() if not is_other(name)}
    rejected = [(name, reason) for name, reason in files.rejected if not is_system(name) and not is_other(name)]
    said = [files.ending] if files.ending else []
    if rejected:
        name, reason = min(rejected)
        said.append(f"{counted(len(rejected), 'member')} of {archive} left out, such as {name} ({reason})")

    def stream() -> Iterator[tuple[str, Reference]]:
        if files.stream:  # it can be read from its beginning only
            yield from ((wanted[number], reference) for number, reference in files.stream() if number in wanted)
            return
        for number, name in wanted.items():
            place = tuple(column[number] for column in files.places)
            yield name, files.reference(ours[number], place)

    return len(wanted), stream, len(ours) - len(wanted), said
