"""Labelled examples as columns, and the source that they come from."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.data.columns import Column, in_parts, table
from cnnjax.data.listings import Reference


class Example(NamedTuple):
    id: str  # path below the root, with "/": "Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png"
    label: int  # index into the source's classes
    group: str  # what data.group matched; "" where it did not, and without data.group
    split: str  # train, val or test where the source itself says so, else ""


class Label(NamedTuple):
    """Class, group and split of an image, as a table or a name says them.

    Attributes:
        name: of its class.
        group: "" where it is not said.
        split: train, val or test; "" where it is not said.
    """

    name: str
    group: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(Sequence):
    """Examples as columns, of which each is made when it is asked for: a million of them take 4 MB, not 500.

    Attributes:
        ids: n texts.
        labels: int32 [n].
        groups, splits: one text per example.
    """

    ids: Column
    labels: np.ndarray
    groups: Column
    splits: Column

    @classmethod
    def of(cls, examples: Iterable[tuple[str, int, str, str]]) -> "Examples":
        """The columns of what is read once and not kept."""
        ids, labels, groups, splits = table(examples, "string", "int32", "string", "string")
        return cls(ids, labels.array.to_numpy(), groups, splits)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Example:
        return Example(self.ids[i], int(self.labels[i]), self.groups[i], self.splits[i])

    def __iter__(self) -> Iterator[Example]:
        return map(Example, self.ids, map(int, self.labels), self.groups, self.splits)

    def where(self, wanted: np.ndarray) -> "Examples":
        """Returns the examples that are wanted, bool [n]; itself where all are."""
        return self if wanted.all() else Examples.of(itertools.compress(self, wanted))


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled examples, sorted by id."""

    classes: tuple[str, ...]
    examples: Sequence[Example]
    fingerprint: str  # changes when any content changes
    stream: Callable[[], Iterator[tuple[int, Reference]]]  # (index into examples, reference), each once, any order
    rejected: tuple[tuple[str, str], ...] = ()  # (id, reason) of files that are never read
    notes: tuple[str, ...] = ()  # what was understood, one line each
    warnings: tuple[str, ...] = ()  # what was left out, one line each
    sizes: Callable[[np.ndarray], Sequence[int]] | None = (
        None  # int64 indices -> bytes of their files, where a listing has them
    )

    def labels(self) -> np.ndarray:
        """int32 [examples]."""
        return self.examples.labels


def group_of(pattern: str, name: str) -> str:
    """Returns the match of `data.group`, or of its first bracket, in a name; "" without a match."""
    matched = re.search(pattern, name) if pattern else None
    return (matched[matched.re.groups and 1] or "") if matched else ""


def digest(facts: Iterable) -> str:
    """SHA-256 of a list as JSON, of which no more than `PART` elements are held."""
    digest, between = hashlib.sha256(b"["), b""
    for part in in_parts(facts):
        digest.update(between + json.dumps(part)[1:-1].encode())
        between = b", "
    digest.update(b"]")
    return digest.hexdigest()
