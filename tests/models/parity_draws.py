"""Numbers that both sides of the comparison with PyTorch draw: arrays of a state dict, and images. NumPy is all it needs."""

import hashlib
import zlib
from collections.abc import Mapping

import numpy as np


def array(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """A float32 array of a state dict, by its name and shape in PyTorch: of a size that keeps a deep network's numbers moderate."""
    random = np.random.default_rng([zlib.crc32(name.encode()), *shape])
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    drawn = random.standard_normal(shape, np.float32)
    if name.endswith(".weight") and len(shape) > 1:
        return drawn * np.float32((gain if len(shape) == 4 else 1) / np.sqrt(np.prod(shape[1:])))
    near = 1.0 if name.endswith(("weight", "gamma", "layer_scale")) else 0.0
    return np.float32(near) + np.float32(0.1) * drawn


def images(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: blotches and noise."""
    random = np.random.default_rng([count, size])
    coarse = random.integers(0, 200, (count, size // 8 + 1, size // 8 + 1, 3))
    fine = random.integers(0, 56, (count, size, size, 3))
    return (coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size] + fine).astype(np.uint8)


def digest(sizes: Mapping[str, int]) -> str:
    """The SHA-256 of the names of arrays with their numbers of elements."""
    return hashlib.sha256("".join(f"{name} {sizes[name]}\n" for name in sorted(sizes)).encode()).hexdigest()
