"""Operations in plain JAX, and the same by kernels for CPUs: convolutions, norms, pools, dense layers, sampling, Adam and Muon."""

from cnnjax.kernels.blocks import Block
from cnnjax.kernels.cpu import CpuOps
from cnnjax.kernels.library import available, instruction_set, limit_threads, why_not
from cnnjax.kernels.linked import Gate, Link
from cnnjax.kernels.ops import ACTIVATIONS, PLAIN, Ops, Padding, gated, same_padding, sides
from cnnjax.kernels.sampling import FILLS, INTERPOLATIONS

__all__ = [
    "ACTIVATIONS",
    "FILLS",
    "INTERPOLATIONS",
    "PLAIN",
    "Block",
    "CpuOps",
    "Gate",
    "Link",
    "Ops",
    "Padding",
    "available",
    "gated",
    "instruction_set",
    "limit_threads",
    "same_padding",
    "sides",
    "why_not",
]
