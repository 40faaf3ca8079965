"""The update in one pass over the memory: what optax gives, in its state."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_tools import results_on_threads, settings

from cnnjax.kernels import PLAIN, CpuOps, Ops, adam, library
from cnnjax.kernels import blocks as kernels
from cnnjax.training import optimizers

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)
SETS = library.instruction_sets()
SHAPES = {"wide": (300, 301), "long": (adam.LEAST + 5,), "small": (7, 9), "scalar": ()}


def drawn(rng: np.random.Generator) -> dict:
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def made(**options) -> tuple[optimizers.Optimizer, dict]:
    overrides = {f"optimizer__{key}": value for key, value in {"epsilon": 1e-3, "learning_rate": 0.01, **options}.items()}
    section = settings(**overrides).optimizer
    return optimizers.make_optimizer(section, optimizers.make_schedule(section, 4, 2)), drawn(np.random.default_rng(0))


def after(tx: optimizers.Optimizer, params: dict, gradients: list[dict], ops: Ops) -> tuple[dict, optax.OptState]:
    step = jax.jit(functools.partial(tx.update, ops=ops))
    opt_state = tx.init(params)
    for i, grads in enumerate(gradients):
        params, opt_state = step(grads, opt_state, params, jnp.float32(1 - i / 8))
    return params, opt_state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "adamw", "weight_decay": 0.1, "clip_norm": 0.5, "schedule": "cosine", "warmup_epochs": 0.5},
        {"name": "adam", "clip_norm": 1e6, "beta1": 0.0},
    ],
    ids=str,
)
def test_four_updates_are_those_of_optax(monkeypatch, options):
    tx, params = made(**options)
    rng = np.random.default_rng(1)
    gradients = [drawn(rng) for _ in range(4)]
    gradients[2]["wide"][:50] = 0
    wanted = after(tx, params, gradients, ops=PLAIN)
    for name in SETS:
        library.register(name)
        monkeypatch.setattr(kernels, "instruction_set", lambda name=name: name)
        found = after(tx, params, gradients, ops=CpuOps())
        assert jax.tree.structure(found) == jax.tree.structure(wanted), "a checkpoint of one must be one of the other"
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        for leaf in ("small", "scalar"):
            np.testing.assert_allclose(found[0][leaf], wanted[0][leaf], rtol=1e-6)


def test_numbers_that_are_none_stay_where_they_are():
    tx, params = made()
    grads = drawn(np.random.default_rng(1))
    grads["wide"][3, 5] = np.nan
    found, wanted = (after(tx, params, [grads], ops) for ops in (CpuOps(), PLAIN))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert np.isnan(found[0]["wide"]).sum() == 1


def test_nothing_large_is_copied_or_computed_by_xla():
    tx, params = made(name="adamw", weight_decay=0.1)

    def update(params, opt_state, grads):
        return tx.update(grads, opt_state, params, jnp.float32(1), ops=CpuOps())

    text = jax.jit(update, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile().as_text()
    large = [line for line in text.splitlines() if re.search(r"= f32\[(300,301|65541)\]", line)]
    assert large and not [line for line in large if "copy(" in line or "fusion(" in line]


def test_sgd_has_no_kernel():
    tx, params = made(name="sgd")
    grads = drawn(np.random.default_rng(1))
    found, wanted = (after(tx, params, [grads], ops) for ops in (CpuOps(), PLAIN))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


UPDATE = """
import json
import jax, jax.numpy as jnp, numpy as np
from cnnjax.kernels import adam
rng = np.random.default_rng(0)
params = [jnp.asarray(rng.standard_normal((400, 401)), jnp.float32) for _ in range(4)]
params[3] = jnp.abs(params[3])
factors = jnp.float32([0.01, 10, 1000, 1])
def loss(params, images=None):
    g, p, m, v = params
    return sum(jnp.sum(x) for x in adam.update(factors, g, p, m, v, beta1=0.9, beta2=0.999, epsilon=1e-7))
images = None
step = jax.jit(lambda params, images: (loss(params), adam.update(factors, *params, beta1=0.9, beta2=0.999, epsilon=1e-7)))
"""


def test_results_do_not_depend_on_the_number_of_threads():
    assert len(results_on_threads(UPDATE)) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"g": jnp.zeros(5)}, "give four that are equal"),
        ({"m": jnp.zeros(9, jnp.bfloat16)}, "m is bfloat16; give float32"),
    ],
)
def test_wrong_arrays_are_refused(change, says):
    arrays = {name: jnp.zeros(9) for name in "gpmv"} | change
    with pytest.raises(ValueError, match=f"^adam: .*{says}"):
        adam.update(jnp.zeros(4), *arrays.values(), beta1=0.9, beta2=0.999, epsilon=1e-7)
