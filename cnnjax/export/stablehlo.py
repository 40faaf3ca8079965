"""StableHLO: what JAX exports, for every platform in one file, with the facts before it.

The file is 8 bytes, the length of a JSON document as a little-endian number; the document; then what `jax.export` has serialized. It is
safetensors' way of a header. A loader is four lines; docs/export.md has them.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from cnnjax.errors import ConfigError
from cnnjax.export.card import KEY, Card
from cnnjax.export.portable import Portable

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
HEADER = 2**24  # bytes of facts that are read


def write(portable: Portable, path: Path) -> None:
    """Writes a network for CPUs, NVIDIA's and AMD's GPUs and TPUs; products are of full float32 everywhere."""
    from jax import export

    images = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), *portable.card.shape, 3), jnp.uint8)
    with jax.default_matmul_precision("highest"):  # else a GPU has 10 bits of each factor and a TPU 8
        made = export.export(jax.jit(portable.function), platforms=PLATFORMS)(images)
    header = json.dumps({KEY: portable.card.to_dict()}, allow_nan=False).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(made.serialize())


def read(path: Path) -> tuple[Card, bytes]:
    """Returns the facts, and what `jax.export.deserialize` reads. Raises ConfigError for another file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER:
            raise ConfigError(
                f"{path} is not a StableHLO file of cnnjax; name one that --mode=export --format=stablehlo wrote"
            )
        try:
            tree = json.loads(file.read(size))[KEY]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{path} is not a StableHLO file of cnnjax; name one that --mode=export --format=stablehlo wrote"
            ) from None
        return Card.from_dict(tree, str(path)), file.read()
