"""A row of the table of kernels: how its arrays are drawn, and its results and gradients on an instruction set."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import pytest

from cnnjax.kernels import Ops, available, library
from cnnjax.kernels import blocks as kernels

SETS = library.instruction_sets() if available() else ()  # of this CPU, best first


class Case(NamedTuple):
    """Arguments of one call."""

    shapes: tuple[tuple[int, ...], ...]
    options: dict

    def __str__(self) -> str:
        shapes = ["x".join(map(str, shape)) for shape in self.shapes[:2]]
        return " ".join([*shapes, *(f"{key}={value}" for key, value in self.options.items())])


@contextlib.contextmanager
def instructions(name: str) -> Iterator[None]:
    """Within it, calls that are traced go to the library of this instruction set."""
    library.register(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "instruction_set", lambda: name)
        yield


def whole_numbers(rng: np.random.Generator, *shape: int, most: int = 3) -> np.ndarray:
    """Float32 in [-most, most]; sums of products of so small ones are exact, and ties are frequent."""
    return rng.integers(-most, most + 1, shape).astype(np.float32)


def draw_normal(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    return [rng.standard_normal(shape).astype(np.float32) for shape in case.shapes]


def draw_shifted(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    """Images whose mean and deviation are 1 and 2."""
    images, *more = draw_normal(rng, case)
    return [2 * images + 1, *more]


def draw_whole(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    return [whole_numbers(rng, *shape, most=2) - 4 * (len(case.shapes) == 1) for shape in case.shapes]


def draw_samples(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    images, matrices = case.shapes
    matrix = np.eye(2, 3) + rng.uniform(-0.5, 0.5, matrices)
    factors = np.rint(matrix * 2 ** case.options["fraction"]).astype(np.int32)
    return [rng.integers(0, 256, images).astype(np.float32), factors]


def draw_moments(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    """Factors of the third update, with gradients that are halved."""
    _, *arrays = draw_normal(rng, case)
    corrections = (1 / (1 - case.options[beta] ** 3) for beta in ("beta1", "beta2"))
    return [np.array([0.01, *corrections, 0.5], np.float32), *arrays[:3], np.abs(arrays[3])]


def draw_matrix(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    """A matrix without singular values next to 0, of which float32 says as little as the Gram matrix does."""
    left, _, right = np.linalg.svd(rng.standard_normal(case.shapes[0]), full_matrices=False)
    return [((left * rng.uniform(0.2, 1, len(right))) @ right).astype(np.float32)]


def draw_bytes(rng: np.random.Generator, case: Case) -> list[np.ndarray]:
    images, *weights = draw_normal(rng, case)
    return [rng.integers(0, 256, images.shape, np.uint8), *weights]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A row of the table.

    Args:
        call: ops, arrays and options -> results; gradients are those of the first.
        handlers: of the library, which a program with gradients calls.
        cases: small and odd shapes; a composition has none.
        many: a batch of 16 that fills several threads and 8 devices.
        other: a case that plain JAX computes.
        batch: arguments whose first dimension is the batch. Empty: it runs on one device.
        grads: arguments that have gradients.
        draw: rng, case -> arrays.
        is_exact: small whole numbers give exactly what float64 gives.
        tolerance: of the difference from float64, as a part of the largest number.
        spread: how many numbers may become NaN for each one that plain JAX makes NaN.
        is_alone: the result of an image does not depend on other images, bit by bit.
        sharded: arguments whose first dimension is divided along fsdp on several devices.
    """

    call: Callable
    handlers: tuple[str, ...]
    cases: tuple[Case, ...]
    many: Case
    other: Case | None = None
    batch: tuple[int, ...] = (0,)
    grads: tuple[int, ...] = (0, 1)
    draw: Callable = draw_normal
    is_exact: bool = True
    tolerance: float = 5e-6
    spread: int = 1
    is_alone: bool = True
    sharded: tuple[int, ...] = ()

    def drawn(self, case: Case, *, whole: bool = False) -> list[np.ndarray]:
        """Arrays of a case, each time the same, and last the gradient of the first result."""
        rng = np.random.default_rng(sum(case.shapes, ()))
        arrays = draw_whole(rng, case) if whole else self.draw(rng, case)
        y = jax.eval_shape(lambda *arrays: self.call(Ops(), *arrays, **case.options)[0], *arrays)
        return [*arrays, whole_numbers(rng, *y.shape) if whole else rng.standard_normal(y.shape).astype(np.float32)]

    def results(self, ops: Ops, case: Case, *drawn: jax.Array) -> list[jax.Array]:
        """All results, then the gradients of `grads`."""
        *arrays, g = drawn

        def call(*chosen):
            full = [*arrays]
            for i, array in zip(self.grads, chosen, strict=True):
                full[i] = array
            y, *more = self.call(ops, *full, **case.options)
            return y, more

        if not self.grads:
            y, more = call()
            return [y, *more]
        y, pull, more = jax.vjp(call, *(arrays[i] for i in self.grads), has_aux=True)
        return [y, *more, *pull(g.astype(y.dtype))]
