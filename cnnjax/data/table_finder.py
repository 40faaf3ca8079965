"""Files that are there, found by what a table calls them."""

import functools
from collections import defaultdict
from pathlib import Path

from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.examples import Label
from cnnjax.data.layout import part_of
from cnnjax.data.listings import Files
from cnnjax.data.table_files import PICTURE
from cnnjax.errors import DataError
from cnnjax.progress import counted


class Finder:
    """Files by the names that a table gives them.

    Args:
        files: that are there.
        path: of the table, for messages.
    """

    def __init__(self, files: Files, path: Path):
        self.files, self._path = files, path
        self._names = files.names
        self._whole: dict[str, int] = {}
        self._short: dict[str, list[int]] = defaultdict(list)
        self._part = functools.cache(lambda folder: (part_of(folder) or ("",))[0])
        for number, name in enumerate(files.names):
            if is_system(name) or is_other(name):
                continue
            self._whole[name] = number
            last = name.rpartition("/")[2]
            for known in {part.casefold() for part in (last, _stem(last), _stem(name))}:
                self._short[known].append(number)

    def find(self, file: str, part: str = "") -> int | None:
        """Returns the number of a file: by its path, else by its name, of any ending and capitals.

        Args:
            file: as a table names it.
            part: train, val or test; of several files of a name that in a folder of this part is meant.

        Raises:
            DataError: several files have that name.
        """
        file = file.replace("\\", "/").removeprefix("./")
        if (number := self._whole.get(file)) is not None:
            return number
        last = file.rpartition("/")[2]
        for name in (file, _stem(file), last, _stem(last)):
            if len(several := self._of_part(self._short.get(name.casefold(), []), part)) > 1:
                both = " and ".join(self._names[number] for number in several[:2])
                raise DataError(
                    f"{self._path} names {file}, which is {both}; name the folder as well, or another --config.data.root=DIR"
                )
            if several:
                return several[0]
        return None

    def has(self, file: str) -> bool:
        """Returns whether a text names one file or several."""
        try:
            return bool(file) and (self.find(file) is not None or (file.isdecimal() and bool(self._by_value(file))))
        except DataError:
            return True

    def without_zeros(self, found: dict[int, Label], missing: dict[str, Label]) -> list[str]:
        """Moves numbers whose leading zeros are lost, 7 for 0007.png, from `missing` to `found`; returns a line about them."""
        moved = []
        for file, label in list(missing.items()):
            # A file that another row names as it is written is not meant.
            several = [number for number in self._by_value(file) if number not in found]
            if len(several := self._of_part(several, label.split)) == 1:
                found[several[0]] = missing.pop(file)
                moved.append((file, self._names[several[0]]))
        if not moved:
            return []
        verb = "is" if len(moved) == 1 else "are"
        return [
            f"{counted(len(moved), 'file')} {verb} named with other leading zeros, such as {moved[0][0]} for {moved[0][1]}"
        ]

    def _of_part(self, numbers: list[int], part: str) -> list[int]:
        """The one file in a folder of a part, where there are several; else all."""
        if len(numbers) < 2 or not part:
            return numbers
        inside = [number for number in numbers if part in map(self._part, self._names[number].split("/")[:-1])]
        return inside if len(inside) == 1 else numbers

    def _by_value(self, file: str) -> list[int]:
        """Files whose name is the same whole number."""
        stem = _stem(file.replace("\\", "/").rpartition("/")[2])
        return self._numbered.get(stem.lstrip("0"), []) if stem.isdecimal() else []

    @functools.cached_property
    def _numbered(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for name, number in self._whole.items():
            stem = _stem(name.rpartition("/")[2])
            if stem.isdecimal():
                found[stem.lstrip("0")].append(number)
        return found


def _stem(name: str) -> str:
    """A name without the ending of a picture."""
    return PICTURE.sub("", name)
