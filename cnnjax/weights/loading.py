"""Weights of `model.weights` for a network: found, fetched where they are not here, read and matched."""

from pathlib import Path

from cnnjax import runs
from cnnjax.config import Config, Origin
from cnnjax.errors import ConfigError
from cnnjax.inside import sha256
from cnnjax.models import Network
from cnnjax.weights import files, hub
from cnnjax.weights.matching import Matched, match


def find(config: Config, *, fetch: bool = True) -> Path | None:
    """Returns the file of `model.weights`, which is not a run; its beginning is looked at.

    Args:
        config: with weights.
        fetch: get the file of a repository where the hub's cache has not got it; else it is None.

    Raises:
        ConfigError: there is no such file, it is damaged, or it cannot be fetched.
    """
    origin = Origin.of(config.model.weights)
    path = origin.path
    if origin.kind == "hub":
        try:
            path = hub.download(origin, origin.file) if fetch else hub.cached(origin, origin.file)
        except FileNotFoundError:
            raise ConfigError(
                f"{hub.shown(origin)} has no file {origin.file}; name one, such as hf:{origin.place}:FILE.safetensors"
            ) from None
    if path is not None:
        with files.opened(path):
            pass
    return path


def check(config: Config, network: Network) -> None:
    """Checks that the weights of a file or a repository fit a network. Raises ConfigError as `find` and `matching.match`."""
    with files.opened(find(config)) as tensors:
        match(tensors, network, f"model.weights={config.model.weights}", config.model.name)


def load(config: Config, network: Network) -> tuple[Matched, runs.Weights]:
    """Reads the weights of a network, from a file or a repository.

    Args:
        config: with weights.
        network: that begins with them.

    Returns:
        The arrays, and the facts that the run keeps.

    Raises:
        ConfigError: as `find` and `matching.match`.
    """
    path = find(config)
    with files.opened(path) as tensors:
        matched = match(tensors, network, f"model.weights={config.model.weights}", config.model.name)
    return matched, runs.Weights(
        source=config.model.weights,
        file=path.name,
        sha256=sha256(path),
        revision=hub.commit(path) if Origin.of(config.model.weights).kind == "hub" else "",
        names=matched.collection,
        new=tuple("/".join(path) for path in matched.new),
    )
