"""The update in one pass over the memory: what optax gives, in its state."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kernel_rows import SETS, instructions
from training_tools import settings

from cnnjax.kernels import PLAIN, CpuOps, Ops, adam
from cnnjax.kernels import blocks as kernels
from cnnjax.training import optimizers

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)
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
def test_four_updates_are_those_of_optax(options):
    tx, params = made(**options)
    rng = np.random.default_rng(1)
    gradients = [drawn(rng) for _ in range(4)]
    gradients[2]["wide"][:50] = 0
    wanted = after(tx, params, gradients, ops=PLAIN)
    for name in SETS:
        with instructions(name):
            found = after(tx, params, gradients, ops=CpuOps())
        assert jax.tree.structure(found) == jax.tree.structure(wanted), "a checkpoint of one must be one of the other"
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        for leaf in ("small", "scalar"):
            np.testing.assert_allclose(found[0][leaf], wanted[0][leaf], rtol=1e-6)


def test_nan_in_gradients_stays_where_it_is():
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


def test_muon_has_its_matrices_from_the_kernel_behind_any_clip():
    tx, _ = made(name="muon", clip_norm=0.5)
    rng = np.random.default_rng(0)
    params, grads = ({"conv": {"kernel": rng.standard_normal((3, 3, 16, 32)).astype(np.float32)}} for _ in range(2))
    (found, _), (wanted, _) = (after(tx, params, [grads, grads], ops) for ops in (CpuOps(), PLAIN))
    moved = [np.asarray(tree["conv"]["kernel"] - params["conv"]["kernel"]) for tree in (found, wanted)]
    np.testing.assert_allclose(*moved, rtol=0, atol=1e-4 * np.abs(moved[1]).max())
    assert np.abs(moved[0] - moved[1]).max() > 0  # another order of additions
