"""The two networks layer by layer, and the parts they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cnnjax import config as config_lib
from cnnjax import models
from cnnjax.errors import DataError
from cnnjax.kernels import PLAIN
from cnnjax.training import state

FLOWERS = [("conv1", (180, 180, 16), 448), ("pool1", (90, 90, 16), 0), ("conv2", (90, 90, 32), 4640),
           ("pool2", (45, 45, 32), 0), ("conv3", (45, 45, 64), 18496), ("pool3", (22, 22, 64), 0),
           ("dropout", (22, 22, 64), 0), ("flatten", (30976,), 0), ("dense1", (128,), 3965056),
           ("outputs", (5,), 645)]  # fmt: skip
MALARIA = [("conv1", (30, 30, 16), 448), ("pool1", (29, 29, 16), 0), ("conv2_1", (29, 29, 16), 2320),
           ("conv2_2", (29, 29, 16), 2320), ("pool2", (28, 28, 16), 0), ("conv3_1", (28, 28, 16), 2320),
           ("conv3_2", (28, 28, 16), 2320), ("pool3", (27, 27, 16), 0), ("flatten", (11664,), 0),
           ("dense1", (64,), 746560), ("dropout1", (64,), 0), ("dense2", (32,), 2080), ("dropout2", (32,), 0),
           ("outputs", (1,), 33)]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "classes", "rows", "total"),
    [("flowers", 5, FLOWERS, 3_989_285), ("flowers.py:tutorial", 5, FLOWERS, 3_989_285),
     ("malaria", 2, MALARIA, 758_401), ("malaria.py:tutorial", 2, MALARIA, 758_401)],
)  # fmt: skip
def test_the_tutorials_networks(repository, file, classes, rows, total):
    path = repository / "configs" / (file if ":" in file else f"{file}.py")
    config = config_lib.load_config(str(path))
    network = state.network(config, classes)
    table = models.table(network.model, config.image.size)
    assert [(row.name, row.shape, row.parameters) for row in table] == rows
    assert sum(row.parameters for row in table) == total
    params, _ = jax.eval_shape(network.make)
    assert sum(p.size for p in jax.tree.leaves(params)) == total


def test_the_work_of_the_malaria_network(repository):
    network = state.network(config_lib.load_config(repository / "configs" / "malaria.py"), 2)
    assert sum(row.mflops for row in models.table(network.model, 32)) == pytest.approx(17.251, abs=0.001)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (6, 3), (2, 2), (9, 10)])
@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_is_reduce_window(size, stride):
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3).reshape(2, *size, 3), jnp.float32)

    def reference(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, stride, stride, 1), "VALID")

    weight = np.random.default_rng(1).standard_normal(jax.eval_shape(reference, x).shape).astype(np.float32)

    @jax.jit
    def both(x):
        return [(f(x), jax.grad(lambda x, f=f: (f(x) * weight).sum())(x))
                for f in (lambda x: PLAIN.max_pool(x, 2, stride), reference)]  # fmt: skip

    ours, theirs = both(x)
    assert np.array_equal(ours[0], theirs[0]) and np.allclose(ours[1], theirs[1], atol=1e-6)


def test_a_tie_sends_the_gradient_to_one_place():
    assert jax.grad(lambda x: PLAIN.max_pool(x, 2, 2).sum())(jnp.ones((1, 4, 4, 1))).sum() == 4


def tiny(**overrides):
    values = {"data.path": "x", "image.size": 16, "model.channels": (4, 8), "model.dense": (8,)}
    return config_lib.from_dict({}, {**values, **overrides})


def logits(config, images, classes=3):
    network = state.network(config, classes)
    return jax.jit(lambda: nnx.merge(network.eval_def, *network.make())(images))()


def test_images_may_be_bytes_or_floats():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert np.array_equal(logits(tiny(), images), logits(tiny(), images.astype(np.float32)))


def test_bfloat16_gives_float32_logits_near_those_of_float32():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    exact, rough = logits(tiny(), images), logits(tiny(**{"train.precision": "bfloat16"}), images)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05


def test_parameters_are_float32_plain_dicts_whatever_the_precision():
    params, stats = jax.jit(state.network(tiny(**{"train.precision": "bfloat16", "model.norm": "batch"}), 3).make)()
    leaves = jax.tree.leaves((params, stats))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")} and type(params["conv1"]) is dict
    assert set(stats["norm_conv1"]) == {"mean", "var"} and "bias" not in params["conv1"]


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(DataError, match="nothing is left of the image after block 2"):
        state.network(tiny(**{"image.size": 4, "model.padding": ("valid",)}), 3)


def test_two_classes_have_one_logit():
    assert [models.outputs_for(n) for n in (2, 3, 10)] == [1, 3, 10]
