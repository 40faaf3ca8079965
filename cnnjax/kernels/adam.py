"""The kernel that updates parameters by Adam in one pass over the memory, where XLA makes three loops of it."""

import jax
import numpy as np

from cnnjax.kernels.blocks import float32, size_problem, type_problem, usable

LEAST = 2**16  # numbers; XLA updates fewer within the cache


def supports(shape: tuple[int, ...]) -> bool:
    """Whether `update` takes parameters of this shape, and is worth it."""
    return np.prod(shape, dtype=object) >= LEAST and not size_problem(shape)


def update(factors: jax.Array, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, *, beta1: float, beta2: float,
           epsilon: float, decay: float = 0.0) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """One update; within `jit` it takes the memory of p, m and v where nothing reads them later. On one device.

    Args:
        factors: float32 [4], the learning rate, 1 / (1 - beta1^step), 1 / (1 - beta2^step), and what the gradients are
            multiplied with.
        g: gradients.
        p, m, v: parameters and their two moments, of the same shape and float32 too.
        beta1, beta2, epsilon, decay: of Adam, and of the weights as in AdamW.

    Returns:
        The new p, m and v.

    Raises:
        ValueError: another type or shape.
    """
    problem = type_problem({"factors": factors, "g": g, "p": p, "m": m, "v": v})
    if not problem and len({x.shape for x in (g, p, m, v)}) > 1:
        problem = f"shapes {list(g.shape)}, {list(p.shape)}, {list(m.shape)} and {list(v.shape)}; give four that are equal"
    if problem:
        raise ValueError(f"adam: {problem}")
    call = jax.ffi.ffi_call(
        f"cnnjax_{usable('adam')}_adam", (float32(*p.shape),) * 3, input_output_aliases={2: 0, 3: 1, 4: 2}
    )
    return tuple(call(factors, g, p, m, v, beta1=np.float32(beta1), beta2=np.float32(beta2), epsilon=np.float32(epsilon),
                      decay=np.float32(decay)))  # fmt: skip
