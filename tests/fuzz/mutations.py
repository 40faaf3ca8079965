"""Damage to bytes, as disks, cut downloads and hostile people do it."""

import random
from collections.abc import Sequence


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Returns the bytes with one bit turned."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def replaced(rng: random.Random, data: bytes) -> bytes:
    """Returns the bytes with up to eight others from one place on."""
    at = rng.randrange(len(data))
    new = rng.choice((rng.randbytes(rng.randrange(1, 9)), b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"))
    return data[:at] + new + data[at + len(new) :]


def cut(rng: random.Random, data: bytes) -> bytes:
    """Returns the beginning."""
    return data[: rng.randrange(len(data))]


def shortened(rng: random.Random, data: bytes) -> bytes:
    """Returns the bytes without a few of them."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 30) :]


def lengthened(rng: random.Random, data: bytes) -> bytes:
    """Returns the bytes with a part of them twice."""
    at = rng.randrange(len(data))
    to = at + rng.randrange(1, 300)
    return data[:to] + data[at:]


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Returns the beginning of one and the end of the other."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


KINDS = (flipped, replaced, cut, shortened, lengthened)


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Returns the bytes after one to three damages, half of them near the beginning; `others` are what may be mixed in."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            break
        if others and rng.random() < 0.1:
            data = spliced(rng, data, rng.choice(others))
        elif rng.random() < 0.5:
            head = rng.choice((64, 640))
            data = rng.choice((flipped, replaced, shortened, lengthened))(rng, data[:head]) + data[head:]
        else:
            data = rng.choice(KINDS)(rng, data)
    return data
