"""A trained network behind HTTP: images in, classes out, in batches of what waits."""

from cnnjax.serving.limits import Limits, parse_limits
from cnnjax.serving.served import Card, Served, of_classifier, of_exported
from cnnjax.serving.server import LOCAL, Service
from cnnjax.serving.tokens import Tokens, read_tokens

__all__ = [
    "LOCAL",
    "Card",
    "Limits",
    "Served",
    "Service",
    "Tokens",
    "of_classifier",
    "of_exported",
    "parse_limits",
    "read_tokens",
]
