"""The CPU's own sampling of augmented images gives what XLA's form gives, wherever a matrix leads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_tools import on_devices, settings

from cnnjax import runtime
from cnnjax.augmentation import geometry
from cnnjax.kernels import PLAIN, CpuOps, library, sampling
from cnnjax.kernels import blocks as kernels
from cnnjax.training import steps

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)

SETS = library.instruction_sets()
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
def test_pixels_are_those_of_xla(monkeypatch, shape, interpolation, fill):
    dtype = ("uint8", "float32")[(SHAPES.index(shape) + sampling.FILLS.index(fill)) % 2]
    images, options = images_of(shape, dtype), {"interpolation": interpolation, "fill": fill}
    for kind in ("identity", "mirror", "random", "far", "strange"):
        matrices = matrices_of(kind, shape[0])
        wanted = np.asarray(sample(images, matrices, **options))
        factors, fraction = geometry._factors(jnp.asarray(matrices), *shape[1:3])
        for name in SETS:
            library.register(name)
            monkeypatch.setattr(kernels, "instruction_set", lambda name=name: name)
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
    assert not sampling.supports((1, 2**16, 2**15, 3)) and not sampling.supports((8, 8, 3))


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


def test_vmap_takes_one_batch_after_the_other():
    images, matrices = images_of((3, 2, 9, 8, 3), "uint8"), np.stack([matrices_of("random", 2)] * 3)

    def many(ops):
        one = lambda x, m: geometry.sample(x, m, interpolation="bilinear", fill="reflect", ops=ops)  # noqa: E731
        return jax.jit(jax.vmap(one))(images, matrices)

    np.testing.assert_allclose(many(CpuOps()), many(PLAIN), atol=1e-4)


DEVICES = """
import json
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnnjax.augmentation import geometry
from cnnjax.kernels import CpuOps
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (16, 20, 13, 3), np.uint8)
matrices = (np.eye(2, 3) + rng.uniform(-0.5, 0.5, (16, 2, 3))).astype(np.float32)
step = jax.jit(lambda x, m: geometry.sample(x, m, interpolation="bilinear", fill="reflect", ops=CpuOps()))
alone, same, gathered = np.asarray(step(images, matrices)), [], 0
for count in (2, 8):
    mesh = jax.make_mesh((count // 2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:count])
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    arrays = jax.device_put(images, place), jax.device_put(matrices, place)
    found = step(*arrays)
    same.append(bool((np.asarray(found) == alone).all()) and found.sharding.is_equivalent_to(place, 4))
    gathered += step.lower(*arrays).compile().as_text().count(" all-gather(")
print(json.dumps([same, gathered]))
"""


def test_a_batch_that_is_divided_among_devices_stays_divided():
    assert on_devices(8, DEVICES) == [[True, True], 0]


REFUSED = {
    "rank": (((8, 8, 3), "uint8", (8, 2, 3)), {}, r"images are \[8, 8, 3\]; give \[b, h, w, c\]"),
    "type": (((2, 8, 8, 3), "int32", (2, 2, 3)), {}, "images is int32; give float32 or uint8"),
    "factors": (((2, 8, 8, 3), "uint8", (3, 2, 3)), {}, r"factors are int32 \[3, 2, 3\]; give int32 \[2, 2, 3\]"),
    "bits": (((2, 8, 8, 3), "uint8", (2, 2, 3)), {"bits": 28}, "bits=28; give at least 1"),
    "fill": (((2, 8, 8, 3), "uint8", (2, 2, 3)), {"fill": "mirror"}, "fill=mirror; give one of reflect, nearest"),
    "interpolation": (((2, 8, 8, 3), "uint8", (2, 2, 3)), {"interpolation": "cubic"}, "give one of bilinear, nearest"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_when_it_is_traced(name):
    (shape, dtype, factors), options, message = REFUSED[name]
    options = {"bits": 20, "interpolation": "nearest", "fill": "wrap"} | options
    with pytest.raises(ValueError, match=f"^sample: .*{message}"):
        jax.eval_shape(lambda x, f: sampling.sample(x, f, **options), jax.ShapeDtypeStruct(shape, dtype),
                       jax.ShapeDtypeStruct(factors, jnp.int32))  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"bits": 0}, {"bits": 28}, {"fill": 4}, {"factors": (3, 2, 3)}, {"out": (2, 8, 8, 4)}, {"images": (2, 8, 8)}]
)
def test_the_library_checks_shapes_itself(wrong):
    given = {"bits": 20, "fill": 0, "factors": (2, 2, 3), "out": (2, 8, 8, 3), "images": (2, 8, 8, 3)} | wrong
    call = jax.ffi.ffi_call(f"cnnjax_{kernels.instruction_set()}_sample", jax.ShapeDtypeStruct(given["out"], jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="cnnjax kernels: "):
        jax.block_until_ready(call(jnp.zeros(given["images"]), jnp.zeros(given["factors"], jnp.int32), bits=np.int64(given["bits"]),
                                   nearest=np.bool_(False), fill=np.int64(given["fill"])))  # fmt: skip
