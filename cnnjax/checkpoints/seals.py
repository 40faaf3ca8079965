"""Checksums of checkpoints: the SHA-256 of each file of a checkpoint that is whole, compared before anything is loaded."""

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

from cnnjax.checkpoints.opened import METADATA, SCORES, is_step, misfit, score
from cnnjax.errors import CheckpointError, OutsideError
from cnnjax.inside import inside, read_small


class DamagedError(CheckpointError):
    """A checkpoint whose files are not what was saved."""


class Seals:
    """The checksums of a directory of checkpoints, a file per step.

    Args:
        checkpoints: a directory per step.
        checksums: where the files `<step>.json` are kept.
    """

    def __init__(self, checkpoints: Path, checksums: Path):
        self._checkpoints, self._checksums = checkpoints, checksums

    def write(self) -> None:
        """Writes checksums of each checkpoint that has none yet, and removes those of checkpoints that are gone."""
        there = {path.name: path for path in self._checkpoints.iterdir() if is_step(path.name)}
        self._checksums.mkdir(exist_ok=True)
        for seal in self._checksums.glob("*.json"):
            if seal.stem not in there:
                seal.unlink(missing_ok=True)
        for name, path in there.items():
            if not self._file(name).exists():
                temporary = self._checksums / f".{name}.{os.getpid()}"
                temporary.unlink(missing_ok=True)  # were it a link, what it leads to would be written
                files = _checksums(path)
                temporary.write_text(json.dumps({"files": files, "sha256": _digest(files), "score": _score(path)}, indent=1))
                os.replace(temporary, self._file(name))

    def steps(self) -> set[int]:
        """Returns the steps that have checksums."""
        return {int(path.stem) for path in self._checksums.glob("*.json") if is_step(path.stem)}

    def misfits(self) -> dict[int, str]:
        """Returns step -> why its scores or its metadata are not those that were saved."""
        bad = {}
        for folder in sorted(self._checkpoints.glob("*")):
            if is_step(folder.name) and folder.is_dir():
                known = [self.damage(folder.name, item) for item in (METADATA, SCORES)]
                reason = next(filter(None, known), "") or misfit(folder)
                if reason and folder.exists():  # else it was removed meanwhile
                    bad[int(folder.name)] = reason
        return bad

    def score(self, step: int) -> float | None:
        """Returns the score of a checkpoint as it was saved, also of one that is gone; None where it is not known."""
        try:
            found = json.loads(read_small(self._file(step)))["score"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return float(found) if type(found) in (int, float) else None

    def remove(self, step: int) -> None:
        """Removes the checksums of a checkpoint."""
        self._file(step).unlink(missing_ok=True)

    def damage(self, step: int | str, item: str = "") -> str:
        """Tells how the files of a checkpoint differ from the saved ones; "" where they do not, or no whole checksums exist.

        Args:
            step: of the checkpoint.
            item: only the files below this folder of it; "": all.
        """
        try:
            seal = json.loads(read_small(self._file(step)))
            whole = seal["sha256"] == _digest(seal["files"])
            expected = {name: digest for name, digest in seal["files"].items() if whole and name.startswith(item)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole, expected = False, {}
        folder = inside(self._checkpoints, str(step))
        found = _checksums(folder, item)
        if not whole:  # the list itself is damaged, which says nothing of the files
            return ""
        for name in sorted({*expected, *found}):
            if name not in found:
                return f"{name} is gone"
            if found[name] != expected.get(name):
                return f"{name} is not as it was saved"
        return ""

    def _file(self, step: int | str) -> Path:
        return self._checksums / f"{step}.json"


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _score(directory: Path) -> float | None:
    """The score in a checkpoint's directory; None where it was not evaluated."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return score(json.loads(read_small(directory / SCORES)))
    return None


def _below(directory: Path) -> list[Path]:
    """Everything below a directory, sorted; [] where the directory is removed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(directory.rglob("*"))
    return []


def _checksums(directory: Path, item: str = "") -> dict[str, str]:
    """Path below the directory -> SHA-256 of the file, of those whose path begins with `item`.

    Raises:
        OutsideError: a link, or a pipe or a device, which Orbax would wait for.
    """
    found = {}
    for path in _below(directory):
        name = path.relative_to(directory).as_posix()
        with contextlib.suppress(FileNotFoundError):  # Orbax removes it meanwhile
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                inside(directory, name)
            elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OutsideError(f"{path} is a pipe or a device, which a checkpoint does not have; remove it")
            if name.startswith(item) and stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
