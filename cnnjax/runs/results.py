"""Results of a run as frozen records. The JSON files of a run are these records, written."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

from cnnjax.typed import typed


class Record(Mapping):
    """A record that also reads as the mapping which its JSON file holds: `record["loss"]`, `dict(record)`, `record == tree`."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file, in its order."""
        raise NotImplementedError

    @functools.cached_property
    def _tree(self) -> dict[str, Any]:
        return self.to_dict()

    def __getitem__(self, key: str) -> Any:
        return self._tree[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer, as a row of `network.json`.

    Attributes:
        name, kind: of the layer.
        shape: of its output for one image.
        parameters: numbers in it.
        mflops: millions of multiplications and additions for one image, forward.
        frozen: parameters that training leaves as they are, at first or always; 0 in files of older versions.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    mflops: float
    kind: str = ""
    frozen: int = 0

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a row."""
        return typed(tree, cls, "layer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights that a run began with.

    Attributes:
        source: `model.weights`.
        file: its name; "" of a run.
        sha256: of that file, 64 hex digits.
        revision: commit of a repository, or the step of a run.
        names: the collection whose names the file has; "" of a run.
        new: names of the arrays that began anew.
    """

    source: str
    file: str = ""
    sha256: str = ""
    revision: str = ""
    names: str = ""
    new: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree. Raises TypeError for another."""
        return typed(tree, cls, "weights")

    @classmethod
    def kept(cls, metadata: Mapping[str, Any]) -> Self | None:
        """Returns the weights that the metadata of a checkpoint tells of; None where it tells of none, or not of any as they are."""
        try:
            return cls.from_dict(metadata["weights"])
        except (KeyError, TypeError):
            return None

    @property
    def text(self) -> str:
        """The facts on one line, with the last name alone of a path: a page travels."""
        source = self.source if self.source.startswith("hf:") else re.sub("^(run:)?.*/", r"\1", self.source)
        facts = [self.file if self.file != source else "", self.revision, f"SHA-256 {self.sha256}" if self.sha256 else ""]
        new = f"; drawn anew were {', '.join(self.new[:6])}{', ...' if len(self.new) > 6 else ''}" if self.new else ""
        return f"{source} ({', '.join(filter(None, facts))}){new}"


@dataclasses.dataclass(frozen=True)
class Look:
    """One image of an evaluation that is worth a look.

    Attributes:
        id: of the image, as in `splits.csv`.
        label: name of its class.
        predicted: name of the most probable class.
        probability: of the predicted class.
        file: the thumbnail, relative to the folder of the evaluations.
        sha256: of that file; "" in files of older versions.
    """

    id: str
    label: str
    predicted: str
    probability: float
    file: str
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Seen(Look):
    """One image with the places that speak for the class called drawn over it.

    Attributes:
        agreement: correlation of its map with the drop of the class's log-odds where places are covered, from -1 to 1; None where that
            was not computed, or one of the two is the same everywhere.
    """

    agreement: float | None = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where the network looks, in some images of an evaluation.

    Attributes:
        places: rows and columns of the network's last map; (0, 0) without one.
        reason: why there are no pictures; "" where there are.
        pictures: the most confident mistakes, then right answers of each class.
    """

    places: tuple[int, ...] = (0, 0)
    reason: str = ""
    pictures: tuple[Seen, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree that JSON holds."""
        pictures = [dataclasses.asdict(picture) for picture in self.pictures]
        return {"places": list(self.places), "reason": self.reason, "pictures": pictures}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Record):
    """One checkpoint evaluated on one split: `eval/<name>.json`.

    Attributes:
        split: train, val or test.
        step: the checkpoint.
        numbers: name of a metric -> value, as the metrics room computes them; None where a number is not defined.
        classes: names in the order of the probabilities.
        positive: the positive class of two; "" for more classes.
        confusion: number of images, [true class][predicted class].
        per_class: class -> {"images", "precision", "recall", "f1"}.
        mistakes: the most confident mistakes.
        uncertain: right answers whose two best classes are closest.
        confused: of more than two classes, the most confident images of the pairs that are confused most.
        explained: where the network looks; None where that was not asked for.
    """

    split: str
    step: int
    numbers: dict[str, float | int | None]
    classes: tuple[str, ...]
    positive: str = ""
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float | int | None]]
    mistakes: tuple[Look, ...] = ()
    uncertain: tuple[Look, ...] = ()
    confused: tuple[Look, ...] = ()
    explained: Explanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file; the numbers stand beside the rest."""
        return {
            "split": self.split,
            "step": self.step,
            **self.numbers,
            "classes": list(self.classes),
            **({"positive": self.positive} if self.positive else {}),
            "confusion": self.confusion,
            "per_class": self.per_class,
            "mistakes": [dataclasses.asdict(look) for look in self.mistakes],
            "uncertain": [dataclasses.asdict(look) for look in self.uncertain],
            **({"confused": [dataclasses.asdict(look) for look in self.confused]} if self.confused else {}),
            **({"explained": self.explained.to_dict()} if self.explained else {}),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`; older files may lack looks. Raises TypeError, KeyError or ValueError for another."""
        own = {field.name for field in dataclasses.fields(cls)}
        numbers = {name: value for name, value in dict(tree).items() if name not in own}
        made = typed({**tree, "numbers": numbers}, cls, "evaluation")
        if {len(made.confusion), *map(len, made.confusion)} != {len(made.classes)} or min(map(min, made.confusion)) < 0:
            raise ValueError(f"the confusion matrix is not of {len(made.classes)} classes")
        if made.positive and made.positive not in made.classes:
            raise ValueError(f"{made.positive!r} is not a class")
        return made


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Summary(Record):
    """A run in numbers: `summary.json`.

    Attributes:
        name: of the config.
        best_step: step of the checkpoint of the best epoch.
        steps, epochs: that were trained.
        stopped: "finished", "early" or "signal".
        seconds: of work, over all starts.
        images_per_second: of training.
        parameters: numbers in the network.
        trained_parameters: of these, all that are trained, at last if not from the start; 0 in files of older versions.
        classes: names in the order of the probabilities.
        devices: one line.
        kernels: instruction set of the CPU's kernels, or "xla"; "" in files of older versions.
        precision: type of the network's numbers; "" in files of older versions.
        python, platform: where it ran.
        versions: package -> version.
        revision: git commit of this package, or "".
        spent: kind of work -> seconds.
        notes: lines about what was understood, decided and left out of the data; () in files of older versions.
        leaks: lines about pictures that are on several sides of the split, or under several labels; () in files of older versions.
        weights: with which training began; None: drawn ones.
        train, val, test: name of a metric -> value at the best step; None for a split without images.
        intervals: val or test -> name of a metric -> [low, high], None for an end that is not given; {} in files of older versions.
    """

    name: str
    best_step: int
    steps: int
    epochs: int
    stopped: str
    seconds: float
    images_per_second: float
    parameters: int
    classes: tuple[str, ...]
    trained_parameters: int = 0
    devices: str = ""
    kernels: str = ""
    precision: str = ""
    python: str = ""
    platform: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    revision: str = ""
    spent: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    weights: Weights | None = None
    train: dict[str, float | int | None] | None = None
    val: dict[str, float | int | None] | None = None
    test: dict[str, float | int | None] | None = None
    intervals: dict[str, dict[str, list[float | None]]] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree of the JSON file."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.weights:
            tree["weights"] = {**dataclasses.asdict(self.weights), "new": list(self.weights.new)}
        added = {
            name
            for name in ("trained_parameters", "kernels", "precision", "notes", "leaks", "weights", "intervals")
            if not tree[name]
        }  # since the first files were written
        return {
            name: list(value) if name in ("classes", "notes", "leaks") else value
            for name, value in tree.items()
            if name not in added
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Returns the record of a tree of `to_dict`. Raises TypeError or KeyError for another."""
        return typed(tree, cls, "summary")
