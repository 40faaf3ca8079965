"""How much of a machine the clients of a server may use."""

import dataclasses
from collections.abc import Iterable, Mapping

from cnnjax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server, each a positive number.

    Attributes:
        bytes: of the body of one request.
        held: bytes of the bodies of all requests together.
        pixels: of one picture; 2**27 at most, as everywhere.
        files: pictures of one request.
        requests: that are answered or wait at once; more are told to come back.
        connections: that are open at once.
        header: bytes of the head of a request.
        batch: pictures that go through the network at once.
        seconds: for the head of a request, and again for its body with its answer.
        idle: seconds that a connection may wait for its next request.
        drain: seconds after SIGTERM in which new requests are still answered, while `/ready` says no.
    """

    bytes: int = 2**25
    held: int = 2**28
    pixels: int = 2**26
    files: int = 64
    requests: int = 256
    connections: int = 1024
    header: int = 2**14
    batch: int = 32
    seconds: float = 30.0
    idle: float = 20.0
    drain: float = 2.0


# A request of any browser has a head of some hundred bytes; a size of batch is compiled for each power of two up to the largest.
BOUNDS = {"header": (1024, 2**20), "batch": (1, 1024)}


def parse_limits(texts: Iterable[str] | Mapping[str, float]) -> Limits:
    """Reads limits as they are typed: ["bytes=5e6", "seconds=10"], or a mapping, or one text with commas.

    Raises:
        ConfigError: another name, a name twice, or a value that is not a positive number or outside `BOUNDS`.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(Limits)}
    found = {}
    if isinstance(texts, str):
        texts = texts.split(",")
    elif isinstance(texts, Mapping):
        texts = [f"{name}={value}" for name, value in texts.items()]
    for text in texts:
        name, _, value = text.partition("=")
        if name in found:
            raise ConfigError(f"--limits={text}: {name} has a value already, {found[name]}; write it once")
        if name not in kinds:
            known = ",".join(f"{field.name}={field.default}" for field in dataclasses.fields(Limits))
            raise ConfigError(f"--limits={text}: write NAME=NUMBER with a name of {known}")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < 2**53 or (kinds[name] is int and number != int(number)):
            of = "a whole number above 0" if kinds[name] is int else "a number above 0"
            raise ConfigError(f"--limits={text}: write {of}, such as {name}={getattr(Limits, name)}")
        low, high = BOUNDS.get(name, (0, number))
        if not low <= number <= high:
            raise ConfigError(f"--limits={text}: write {low:,} to {high:,}, such as {name}={getattr(Limits, name)}")
        found[name] = kinds[name](number)
    return Limits(**found)
