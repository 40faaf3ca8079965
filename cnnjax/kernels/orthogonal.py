"""The matrix that Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) steps along: in plain JAX, and its kernel."""

import jax
import jax.numpy as jnp

from cnnjax.kernels.blocks import BLOCK, float32, size_problem, type_problem, usable

# The quintic of the Newton-Schulz iteration, by Jordan: singular values between 0 and 1 get between 0.7 and 1.2 in five turns.
A, B, C = 3.4445, -4.7750, 2.0315
TURNS = 5


def plain(x: jax.Array) -> jax.Array:
    """Returns a matrix with the singular vectors of another and singular values near 1, as far as these were not next to zero.

    The iteration runs on the Gram matrix of the columns, of which all powers commute: a third of the multiplications that it takes on the
    matrix itself.

    Args:
        x: [rows, columns], no more columns than rows, float32.
    """
    x = x / (jnp.linalg.norm(x) + 1e-7)
    gram = x.T @ x
    factor = product = _factor(gram)
    for _ in range(TURNS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = product @ factor
    return x @ product


def _factor(gram: jax.Array) -> jax.Array:
    """Returns what a turn of the iteration multiplies the matrix of a Gram matrix with."""
    return A * jnp.eye(len(gram), dtype=gram.dtype) + B * gram + C * (gram @ gram)


def supports(shape: tuple[int, ...]) -> bool:
    """Whether `orthogonal` takes a matrix of this shape."""
    return not _problem(shape)


def orthogonal(x: jax.Array) -> jax.Array:
    """Returns what `plain` does, by the kernel: of the products that are symmetric it computes half. On one device.

    Raises:
        ValueError: another type or shape.
    """
    if problem := type_problem({"x": x}) or _problem(x.shape):
        raise ValueError(f"orthogonal: {problem}")
    return jax.ffi.ffi_call(f"cnnjax_{usable('orthogonal')}_orthogonal", float32(*x.shape))(x)


def _problem(shape: tuple[int, ...]) -> str:
    if len(shape) != 2 or shape[0] < shape[1] or shape[1] % BLOCK:
        return f"x is {list(shape)}; give [rows, columns], columns a multiple of {BLOCK} and no more than the rows"
    return size_problem(shape)
