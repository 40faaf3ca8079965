"""The tokens that let a client in."""

import hashlib
import hmac
from pathlib import Path

from cnnjax.errors import ConfigError
from cnnjax.inside import read_small

SHORTEST = 16  # characters


class Tokens:
    """Accepted tokens, kept as digests; empty: everybody is let in."""

    def __init__(self, tokens: tuple[str, ...] = ()):
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    def __len__(self) -> int:
        return len(self._digests)

    def accept(self, authorization: bytes) -> bool:
        """Returns whether a header `Authorization: Bearer TOKEN` has one of the tokens; takes as long for each wrong one."""
        kind, _, token = authorization.partition(b" ")
        digest, found = hashlib.sha256(token.strip()).digest(), False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found and kind.lower() == b"bearer"


def read_tokens(path: str | Path) -> Tokens:
    """Reads a file with a token on each line; empty lines, and lines that begin with #, are passed over.

    Raises:
        ConfigError: it cannot be read, holds no token, or one that is short or has spaces.
    """
    make = "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
    try:
        lines = [line.strip() for line in read_small(Path(path)).decode().splitlines()]
    except (OSError, ValueError) as error:
        why = "it is not text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise ConfigError(f"--token_file={path} cannot be read ({why}); {make}") from None
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ConfigError(f"--token_file={path} holds no token; {make}")
    if any(len(token) < SHORTEST or not token.isascii() or len(token.split()) > 1 for token in tokens):
        raise ConfigError(f"--token_file={path}: a token has at least {SHORTEST} letters or digits and no space; {make}")
    return Tokens(tokens)
