"""Files of a repository of the Hugging Face Hub, through `huggingface_hub`: its cache, tokens, mirrors and offline mode."""

from pathlib import Path

from cnnjax.config import Origin
from cnnjax.errors import ConfigError

INSTALL = "pip install 'cnnjax[hub]'"
REACH_SECONDS = 10.0  # for a first answer


def download(origin: Origin, name: str) -> Path:
    """Returns the local copy of a file, which is fetched where the hub's cache has not got it.

    Args:
        origin: the repository and the revision.
        name: of the file in it.

    Raises:
        FileNotFoundError: the repository has no such file.
        ConfigError: huggingface_hub is not installed, the hub cannot be reached, or it refuses.
    """
    library, revision = _library(origin), origin.revision or None
    try:
        if cached(origin, name) is None:  # asks once; without a network a download asks six times, for half a minute
            library.get_hf_file_metadata(library.hf_hub_url(origin.place, name, revision=revision), timeout=REACH_SECONDS)
        return Path(library.hf_hub_download(origin.place, name, revision=revision))
    except library.errors.LocalEntryNotFoundError as error:  # one of EntryNotFoundError, which it does not mean
        raise ConfigError(_unreachable(origin, error)) from None
    except library.errors.EntryNotFoundError as error:
        raise FileNotFoundError(name) from error
    except library.errors.RevisionNotFoundError:
        raise ConfigError(
            f"{shown(origin)} has no revision {origin.revision or 'main'!r}; name a branch, a tag or a commit of it"
        ) from None
    except library.errors.RepositoryNotFoundError:  # a gated one is of this class too
        raise ConfigError(
            f"{shown(origin)} does not exist, or takes a token that may read it: huggingface-cli login, or HF_TOKEN"
        ) from None
    except Exception as error:  # those of its HTTP library differ from version to version
        raise ConfigError(_unreachable(origin, error)) from None


def cached(origin: Origin, name: str) -> Path | None:
    """Returns the local copy of a file that was fetched before; None where there is none. Nothing is fetched."""
    library = _library(origin)
    found = library.try_to_load_from_cache(origin.place, name, revision=origin.revision or None)
    return Path(found) if isinstance(found, str) else None


def commit(path: Path) -> str:
    """Returns the commit of a repository that a local copy is of: SNAPSHOTS/COMMIT/NAME."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-2] else ""


def shown(origin: Origin) -> str:
    """Returns the origin as `model.weights` has it, without the file."""
    return f"model.weights=hf:{origin.place}" + (f"@{origin.revision}" if origin.revision else "")


def _unreachable(origin: Origin, error: Exception) -> str:
    reason = (str(error).splitlines() or [""])[0][:120]
    return (f"{shown(origin)} is not in the hub's cache and cannot be fetched ({type(error).__name__}: {reason}); get {origin.file} of that "
            "repository on a machine with a network, and write --config.model.weights=FILE")  # fmt: skip


def _library(origin: Origin):
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise ConfigError(f"{shown(origin)} takes huggingface_hub: {INSTALL}; or get {origin.file} of that repository, and write "
                          "--config.model.weights=FILE") from None  # fmt: skip
    return huggingface_hub
