"""Config files: Python with `get_config(arg)`, one's own or bundled with the package."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.config.own import error_place, import_file
from cnnjax.config.sections import KEYS, Config, flatten
from cnnjax.config.settings import finish, override, unknown_key
from cnnjax.errors import ConfigError

START = "configs/folder.py"  # what a config file of one's own may begin as
PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")  # of an installed package, and of a checkout


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Loads a config file, such as "configs/malaria.py", or a bundled one by its name, such as "malaria".

    Args:
        path: a Python file with `get_config(arg)`, or the name of a bundled one. After a colon comes the variant that is
            passed as `arg`: "configs/malaria.py:demo" or "malaria:demo".
        overrides: values by "section.key", such as {"train.epochs": 5}; text is parsed as on the command line.

    Returns:
        The checked and frozen config.

    Raises:
        ConfigError: every problem found, one line each.
    """
    file, variant = _find(str(path))
    config = _run(file, variant)
    if nothing := [name for name, value in flatten(config) if value is None]:
        raise ConfigError(f"{file}: {nothing[0]}=None: must be {KEYS[nothing[0]].allowed}")
    config.name = f"{file.stem}-{variant}" if variant else file.stem
    overrides = overrides or {}
    return finish(override(config, overrides), overrides)


def unknown_variant(file: str, given: str, allowed: tuple[str, ...]) -> ConfigError:
    """Returns the error of `get_config(arg)` for a variant that does not exist."""
    forms = ", ".join([f"configs/{file}.py", *(f"configs/{file}.py:{name}" for name in allowed)])
    return ConfigError(f"unknown variant {given!r} of configs/{file}.py; use one of: {forms}")


def bundled() -> dict[str, Path]:
    """Returns the config files that come with the package, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.py"))} if folder else {}


def _find(text: str) -> tuple[Path, str]:
    """Splits "FILE.py:variant" or "name:variant" into the file and the variant. Raises ConfigError."""
    name, _, variant = text.partition(":")
    if re.fullmatch(r"[\w-]+", name) and not os.path.exists(name):
        found = bundled()
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"no config {name!r}; {hint}bundled are {', '.join(found) or 'none'}; or name a file, NAME.py")
        return found[name], variant
    file, _, variant = text.partition(".py:")
    file = Path(file + ".py" if variant or text.endswith(".py:") else file)
    if not os.path.isfile(file):  # False of a name that is too long, where Path raises
        folders = (file.parent / "configs", file.parent)
        beside = next((names for folder in folders if (names := sorted(map(str, folder.glob("*.py"))))), [])
        near = [name for name in beside if Path(name).stem == file.stem] or difflib.get_close_matches(str(file), beside, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(beside) or 'none'}"
        raise ConfigError(f"no config file {str(file)!r}; {hint}")
    if file.suffix != ".py":
        raise ConfigError(f"{str(file)!r} is not a config file, which is Python, NAME.py, with get_config(variant); start "
                          f"from {START}")  # fmt: skip
    return file, variant


def _run(file: Path, variant: str):
    """Returns what `get_config(variant)` of a file returns. Raises ConfigError for errors of the file's own code."""
    try:
        module = import_file(file, f"cnnjax_config_{file.stem}")
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} has no function get_config(variant), which returns the config; start from {START}")
        return module.get_config(variant)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{error_place(file, error)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Explains an error of a config file's own code."""
    if isinstance(error, (AttributeError, KeyError)):
        missing = re.search(r'Key "(\w+)" does not exist', str(error))
        if missing:
            return str(unknown_key(missing[1]))
    said = " ".join(str(error).split())
    return _wrong_type(error) or f"{type(error).__name__}: {said}; fix it, or start from {START}"


def _wrong_type(error: Exception) -> str:
    """Says of a value of another type, which ml_collections refuses, the same as `override`; "" for other errors."""
    form = r"override field '(\w+)'.*?\. (.*) is of original type <class '(.*?)'> and cannot .* type <class '(.*?)'>"
    found = re.search(form, str(error), re.DOTALL)
    if not found:
        return ""
    leaf, value, kind, wanted = found.groups()
    if wanted.endswith("ConfigDict"):
        return str(unknown_key(leaf))
    names = [name for name in KEYS if name.rpartition(".")[2] == leaf]
    given = repr(value) if kind == "str" else value
    return f"{' or '.join(names)}={given}: must be {KEYS[names[0]].allowed}"
