"""Kernels for the CPU: convolutions, norms, pools, dense layers, sampling and Adam, called through XLA's FFI."""

from cnnjax.kernels.library import available, instruction_set, why_not

__all__ = ["available", "instruction_set", "why_not"]
