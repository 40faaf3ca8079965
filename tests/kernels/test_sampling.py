"""The CPU's own sampling of augmented images gives what XLA's form gives, wherever a matrix leads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_rows import SETS, instructions
from training_tools import settings

from cnnjax import runtime
from cnnjax.augmentation import geometry
from cnnjax.kernels import PLAIN, CpuOps, sampling
from cnnjax.kernels import blocks as kernels
from cnnjax.training import steps

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)

TARGET = f"cnnjax_{kernels.instruction_set()}_sample"
sample = jax.jit(geometry.sample, static_argnames=("interpolation", "fill", "ops"))
# One pixel, rows, columns, odd sides, sides of which a row has several blocks of pixels; and other channels.
SHAPES = (
    (3, 1, 1, 3),
    (2, 1, 7, 3),
    (2, 5, 1, 3),
    (1, 2, 2, 3),
    (4, 12, 17, 3),
    (2, 70, 150, 3),
    (2, 33, 29, 1),
    (3, 9, 8, 4),
)
STRANGE = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 0, 1, -1, 5, -9], np.float32)


def matrices_of(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1))
    if kind == "mirror":
        matrices[:, 1, 1] = -1
    elif kind == "random":
        matrices += rng.uniform(-0.8, 0.8, matrices.shape).astype(np.float32)
    elif kind == "far":
        matrices = rng.uniform(-8, 8, matrices.shape).astype(np.float32)
    elif kind == "strange":
        matrices = rng.choice(STRANGE, matrices.shape)
    return matrices


def images_of(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize(
    "shape, interpolation, fill",
    [  # of three in a row half of the pairs, such that each two meet
        case
        for i, case in enumerate(itertools.product(SHAPES, sampling.INTERPOLATIONS, sampling.FILLS))
        if (i // 8 + i // 4 + i) % 2 == 0
    ],
    ids=str,
)
def test_pixels_are_those_of_xla(shape, interpolation, fill):
    dtype = ("uint8", "float32")[(SHAPES.index(shape) + sampling.FILLS.index(fill)) % 2]
    images, options = images_of(shape, dtype), {"interpolation": interpolation, "fill": fill}
    for kind in ("identity", "mirror", "random", "far", "strange"):
        matrices = matrices_of(kind, shape[0])
        wanted = np.asarray(sample(images, matrices, **options))
        factors, fraction = geometry._factors(jnp.asarray(matrices), *shape[1:3])
        for name in SETS:
            with instructions(name):
                found = np.asarray(sampling.sample(images, factors, bits=fraction + 1, **options))
            atol = 0 if interpolation == "nearest" or kind in ("identity", "mirror") else 1e-4  # of 255: rounding
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=f"{dtype}, {kind}, {name}")


def test_numbers_that_are_not_finite_spread_no_further_than_with_xla():
    images = images_of((2, 12, 17, 3), "float32")
    images[0, 3, 4] = np.nan
    images[1, 11, 16] = np.inf
    for fill in sampling.FILLS:
        found, wanted = (np.asarray(sample(images, matrices_of("random", 2), interpolation="bilinear", fill=fill, ops=ops))
                         for ops in (CpuOps(), PLAIN))  # fmt: skip
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_is_used_where_it_is_asked_for_and_fits():
    def program(shape, ops):
        arrays = [jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct((shape[0], 2, 3), jnp.float32)]
        return sample.lower(*arrays, interpolation="bilinear", fill="wrap", ops=ops).as_text()

    assert TARGET in program((2, 8, 8, 3), CpuOps())
    assert TARGET not in program((2, 8, 8, 3), PLAIN)


@pytest.mark.parametrize("kind", ["native", "xla"])
def test_the_config_says_what_augments(kind):
    config = settings(runtime__kernels=kind, augment__rotation=20.0)
    batch = {"image": np.zeros((4, 8, 8, 3), np.uint8), "label": np.zeros(4, np.int32)}
    ops = runtime.ops(config.runtime, "cpu")
    assert (TARGET in steps.compile_augmentation(config, ops).lower(0, batch).as_text()) == (kind == "native")


def test_gradients_are_those_of_xlas_form():
    images, matrices = images_of((2, 9, 8, 3), "float32"), matrices_of("random", 2)

    def gradient(ops):
        return jax.grad(lambda x, m: (sample(x, m, interpolation="bilinear", fill="reflect", ops=ops) ** 2).sum(), (0, 1))

    for found, wanted in zip(gradient(CpuOps())(images, matrices), gradient(PLAIN)(images, matrices), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-3)
    assert np.abs(gradient(CpuOps())(images, matrices)[0]).max() > 1
