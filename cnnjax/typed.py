"""Values of JSON as the types of a record: what a file from outside holds is looked at before it is used."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def typed(value: Any, kind: Any, name: str) -> Any:
    """Returns a value of JSON as a type of a record: a class of JSON, a record, or tuple, list, dict and unions of them.

    Raises:
        TypeError: it is of another type; `name` says where.
    """
    if kind is Any:
        return value
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        fitting = [part for part in inner if type(value) is part]
        return value if fitting else typed(value, next(part for part in inner if part is not types.NoneType), name)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        own = typing.get_type_hints(kind)
        needed = [field.name for field in dataclasses.fields(kind) if field.name in value or (
            field.default is field.default_factory is dataclasses.MISSING)]  # fmt: skip
        return kind(**{field: typed(value[field], own[field], f"{name}.{field}") for field in needed})
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(typed(entry, inner[0], name) for entry in value)
    if origin is dict and isinstance(value, Mapping):
        return {typed(key, str, name): typed(entry, inner[1], f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TypeError(f"{name} is not a text")
    if type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**63):
        return value
    raise TypeError(f"{name} is {str(value)[:80]!r}")
