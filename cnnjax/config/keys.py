"""The declaration of one key of the config: its default, note, bounds and choices, in one line of a section."""

import ast
import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnnjax.config.own import FORM, missing_file, split_own

AUTO = -1  # what the word auto stands for in a whole number
LAST = "last"  # the value of `train.monitor` by which the last epoch is the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """Facts about one key. Of a tuple, the bounds and choices hold for each entry.

    Attributes:
        default: value where nothing is set; its type is the type of the key.
        note: meaning and unit, for `--help`.
        least, most: inclusive bounds; None: none.
        above, below: exclusive bounds; None: none.
        unit: of the bounds, for the error.
        choices: allowed values, or "package:REGISTRY", a dict or tuple that is imported when a value is checked.
        element: the type of an entry of a tuple, where the default has none.
        words: texts that stand for a number, or that are allowed beside the choices.
        own: whether "FILE.py:NAME", something in a file of the user's own, is allowed beside the choices.
    """

    default: Any
    note: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""
    choices: str | tuple = ()
    own: bool = False
    element: type = str
    words: dict[str, int | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.default, tuple) and self.default:
            object.__setattr__(self, "element", type(self.default[0]))

    @property
    def allowed(self) -> str:
        """Describes the type, with the default as the example: "a whole number, such as 30"."""
        if isinstance(self.default, tuple):
            kind, example = {int: ("whole numbers", "1,2"), float: ("numbers", "0,4095"), str: ("names", "cat,dog")}[
                self.element
            ]
            return f"{kind} with commas between them, such as {','.join(map(str, self.default)) or example}"
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(self.default), "text")
        words = "".join(f", or {word}" for word in self.words)
        return kind if isinstance(self.default, bool) else f"{kind}, such as {self.default!r}{words}"

    def convert(self, value: Any) -> Any:
        """Returns a value of Python or of the command line as the type of the key. Raises TypeError."""
        kind = type(self.default)
        if isinstance(value, str) and value.lower() in self.words:
            return self.words[value.lower()]
        if isinstance(value, str) and kind is not str:
            value = self._parsed(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, list):
            value = tuple(value)
        if isinstance(value, tuple) and self.element is float:
            value = tuple(float(entry) if type(entry) is int and abs(entry) < 2**1000 else entry for entry in value)
        elif type(value) is int and kind is float:
            value = float(value) if abs(value) < 2**1000 else math.inf
        if isinstance(value, str) and "\0" in value:
            raise TypeError
        if type(value) is not kind or (kind is tuple and any(type(entry) is not self.element for entry in value)):
            raise TypeError
        return value

    def _parsed(self, text: str) -> Any:
        kind = type(self.default)
        try:
            if kind is bool:
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
            if kind is tuple:
                return _parsed_tuple(text, self.element)
            return int(text.replace("_", "")) if kind is int else kind(text)
        except (KeyError, ValueError, SyntaxError, RecursionError, MemoryError, OverflowError):
            raise TypeError from None

    def problem(self, value: Any) -> str:
        """Returns how a value of the right type breaks the bounds or choices; "" where it does not."""
        if value == self.default:  # is allowed, and so most configs are checked without importing a registry
            return ""
        if isinstance(value, tuple):
            return self._problem_of_entries(value)
        if self.own:
            if split_own(value):
                return missing_file(value)
            if not self.choices:
                return f"write {FORM}, a function in a file of your own"
        if self.choices and value not in self.words.values():
            return _not_among(value, (*names(self.choices), *self.words), own=self.own)
        if value in self.words.values() or self._is_within(value):
            return ""
        return f"must be {self._bounds()}" if math.isfinite(value) else f"must be a finite number{self._bounds_behind()}"

    def _problem_of_entries(self, values: tuple) -> str:
        if self.choices:
            allowed = names(self.choices)
            return "" if set(values) <= set(allowed) else f"entries must be {' or '.join(allowed)}"
        if all(type(entry) is self.element and self._is_within(entry) for entry in values):
            return ""
        bounds = "" if self._bounds() == "a finite number" else f" of {self._bounds()}"
        return f"must hold {({int: 'whole numbers', float: 'numbers'}).get(self.element, 'names as text')}{bounds}"

    def _is_within(self, value: Any) -> bool:
        if isinstance(value, (bool, str)):
            return True
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _bounds_behind(self) -> str:
        bounds = self._bounds()
        return "" if bounds == "a finite number" else f", {bounds}"

    def _bounds(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.least is not None and self.most is not None:
            return f"between {_shown(self.least)} and {_shown(self.most)}{unit}"
        parts = []
        for word, bound in (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)):
            if bound is not None:
                parts.append(f"{word} {_shown(bound)}{unit}")
        return " and ".join(parts) or "a finite number"


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def key(default: Any, note: str, **facts: Any) -> Any:
    """Returns the dataclass field of a `Key`; `facts` are its bounds, unit and choices."""
    return dataclasses.field(default=default, metadata={"key": Key(default=default, note=note, **facts)})


def names(choices: str | Iterable) -> tuple:
    """Returns the values of `Key.choices`; a reference "package:REGISTRY" is imported here, and not before."""
    return tuple(registry(choices) if isinstance(choices, str) else choices)


def registry(reference: str) -> Any:
    """Imports the object that "package:NAME" refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _not_among(value: Any, allowed: tuple, *, own: bool) -> str:
    if value in allowed:
        return ""
    near = [name for name in map(str, allowed) if name == str(value).lower()] or difflib.get_close_matches(
        str(value), map(str, allowed), 1
    )
    more = ", or FILE.py:NAME of your own" if own else ""
    return f"use one of {', '.join(map(str, allowed))}{more}" + (f"; did you mean {near[0]!r}?" if near else "")


def _parsed_tuple(text: str, element: type) -> tuple:
    """Parses '(16, 32)', '16,32' or 'cat,dog'."""
    if text.lstrip().startswith(("(", "[")):
        return tuple(ast.literal_eval(text))
    return tuple(element(part.strip()) for part in text.split(",") if part.strip())
