"""Files of weights: safetensors, which hold numbers and run nothing. They may be a stranger's."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError

MOST = 2**35  # bytes of a file
HEADER = 2**24  # bytes of the names and shapes in it, of which an array takes a hundred
TYPES = ("F16", "BF16", "F32", "F64")
PREFIXES = ("module.", "model.", "state_dict.", "_orig_mod.")  # of wrappers that were saved with the network inside


class Tensors:
    """The arrays of an open file, by their names; none is read before `read`.

    Args:
        path: of the file, for errors.
        file: as safetensors opens it.
    """

    def __init__(self, path: Path, file: safe_open):
        self._path, self._file = path, file
        names = {name: name for name in file.keys()}  # noqa: SIM118, it is not a mapping
        while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), ""):
            names = {name.removeprefix(prefix): own for name, own in names.items()}
        self._names = names
        self.shapes = {name: tuple(file.get_slice(own).get_shape()) for name, own in names.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns an array as float32. Raises ConfigError for one of another type, or with a number that is not finite."""
        own = self._names[name]
        kind = self._file.get_slice(own).get_dtype()
        if kind not in TYPES:
            raise ConfigError(
                f"model.weights: {own} of {self._path} is of type {kind}; save it as float32, float16 or bfloat16"
            )
        array = self._file.get_tensor(own).astype(np.float32)
        if not np.isfinite(array).all():
            raise ConfigError(
                f"model.weights: {own} of {self._path} has numbers that are not finite; get the file again from where you trust it"
            )
        return array


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Tensors]:
    """Opens a file of weights.

    Raises:
        ConfigError: there is none, it is not a regular file, or it is damaged or too large.
    """
    _check(path)
    try:
        with safe_open(path, "np") as file:
            yield Tensors(path, file)
    except (SafetensorError, OSError, OverflowError) as error:
        raise ConfigError(
            f"model.weights: {path} is not a whole .safetensors file ({' '.join(str(error).split())[:200]}); get it again"
        ) from None


def exported_preprocessing(path: Path) -> Preprocessing | None:
    """Returns the preprocessing of the run that a file was exported from; None for a file from elsewhere, and for none.

    Raises:
        ConfigError: there is no such file, or the facts in it are damaged.
    """
    _check(path)
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get("cnnjax")
        return Preprocessing.from_dict(json.loads(text)["preprocessing"]) if text else None
    except (SafetensorError, OSError, OverflowError):  # `opened` says it
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise ConfigError(f"model.weights: {path} has facts that are damaged ({error}); export the run anew") from None


def _check(path: Path) -> None:
    """Raises ConfigError for what is not a file of a sensible size."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
    except OSError as error:
        raise ConfigError(f"model.weights={path}: {error.strerror}; name a .safetensors file") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise ConfigError(f"model.weights={path}: not a regular file; name a .safetensors file")
    with open(handle, "rb") as file:
        if facts.st_size > MOST:
            raise ConfigError(
                f"model.weights={path}: {facts.st_size:,} bytes, more than {MOST:,}; name the weights of one network"
            )
        if (header := int.from_bytes(file.read(8), "little")) > min(HEADER, facts.st_size):
            raise ConfigError(f"model.weights: {path} is not a whole .safetensors file (its header takes {header:,} bytes, at most "
                              f"{min(HEADER, facts.st_size):,} are read); get it again")  # fmt: skip
