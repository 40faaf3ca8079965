"""Code of the user's own: config files, and a network, loss or augmentation that is named FILE.py:NAME."""

import functools
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnjax.errors import ConfigError

FORM = "FILE.py:NAME"


def split_own(text: str) -> tuple[Path, str] | None:
    """Splits "my_file.py:MyNet" into the file and the name; None for a text that has not this form."""
    found = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", text)
    return (Path(os.path.expanduser(found[1])), found[2]) if found else None


def missing_file(text: str) -> str:
    """Returns why "FILE.py:NAME" cannot be used; "" where the file is there or the text has not this form."""
    own = split_own(text)
    return f"no such file: {own[0]}; write {FORM}, the path of a Python file" if own and not os.path.isfile(own[0]) else ""


def load_own(text: str) -> Any:
    """Imports what "FILE.py:NAME" names: a network's class, or a function.

    Args:
        text: a path, absolute or from the directory in which the command runs, and a name that the file defines.

    Raises:
        ConfigError: no such file or name, or an error of the file's own code.
    """
    own = split_own(text)
    if own is None:
        raise ConfigError(f"{text!r} names nothing in a file of your own; write {FORM}")
    file, name = own
    if reason := missing_file(text):
        raise ConfigError(reason)
    try:
        module = _imported(file.resolve(), file.stat().st_mtime_ns)
    except Exception as error:
        raise ConfigError(describe_error(file, error)) from error
    if not hasattr(module, name):
        names = ", ".join(n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__)
        raise ConfigError(f"{file} defines no {name}; it defines {names or 'nothing'}")
    return getattr(module, name)


@functools.cache
def _imported(file: Path, changed: int) -> ModuleType:
    return import_file(file, f"cnnjax_own_{file.stem}")


def import_file(file: Path, name: str) -> ModuleType:
    """Runs a Python file as a module of that name, which then is in `sys.modules`. Raises whatever the file raises."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def error_place(file: Path, error: Exception) -> str:
    """Returns "FILE, line N": where in a file its code has raised an error."""
    places = (file, file.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in places]
    own = isinstance(error, SyntaxError) and error.filename and Path(error.filename) in places
    line = error.lineno if own else lines[-1] if lines else None
    return f"{file}, line {line}" if line else str(file)


def describe_error(file: Path, error: Exception) -> str:
    """Returns one line about an error of a file's own code."""
    return f"{error_place(file, error)}: {type(error).__name__}: {' '.join(str(error).split())}"
