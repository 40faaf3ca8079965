"""A network in float32 and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def in_both_precisions(network, drawn, images, limit: float) -> dict:
    """Checks that bfloat16 gives float32 logits near those of float32, and keeps statistics that are not rounded.

    Args:
        network: precision -> `Network`.
        drawn: network -> (params, stats).
        images: uint8 [b, size, size, 3].
        limit: of the largest difference of a logit, as a share of the largest.

    Returns:
        The statistics of float32.
    """
    logits, kept = [], []
    for precision in ("float32", "bfloat16"):
        made = network(precision)

        @jax.jit
        def trained(params, stats, made=made):
            model = nnx.merge(made.train_def, params, stats)
            return model(images), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        for results, got in zip((logits, kept), trained(*drawn(made)), strict=True):
            results.append(got)
    assert logits[1].dtype == jnp.float32
    assert 0 < np.abs(logits[0] - logits[1]).max() < limit * np.abs(logits[0]).max()
    assert {leaf.dtype for leaf in jax.tree.leaves(kept[1])} == {jnp.dtype("float32")}
    assert any((leaf != leaf.astype(jnp.bfloat16)).any() for leaf in jax.tree.leaves(kept[1]))
    return kept[0]
