"""The pure steps, and the one place that compiles them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cnnjax import runtime
from cnnjax.augment import augment
from cnnjax.state import Network, TrainState


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example: float32 [b, classes] or [b, 1], int32 [b] -> float32 [b]."""
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def predicted(logits: jax.Array) -> jax.Array:
    """The most probable class: int32 [b]."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)


def train_step(state: TrainState, batch: dict, *, network: Network, tx: optax.GradientTransformation, augment_config,
               seed: int) -> tuple[TrainState, dict]:  # fmt: skip
    """One update.

    Args:
        state: before the update.
        batch: {"image": uint8 [b, size, size, 3], "label": int32 [b]}.
        network, tx: what is trained and how.
        augment_config: the `augment` section.
        seed: with the step, the source of all randomness of this update.

    Returns:
        The state after it, and {"loss", "accuracy"} of this batch (augmented, with dropout).
    """
    # Stream 0 of the seed draws the initial weights.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), state.step)
    augment_key, dropout_key = jax.random.split(key)
    images = augment(augment_key, batch["image"], augment_config)

    def loss_fn(params):
        model = nnx.merge(network.train_def, params, state.stats)
        logits = model(images, nnx.Rngs(dropout=dropout_key))
        return losses(logits, batch["label"]).mean(), (logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

    (loss, (logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + state.scale * u, state.params, updates)
    count = jnp.float32(batch["label"].shape[0])
    correct = (predicted(logits) == batch["label"]).sum().astype(jnp.float32)
    sums = {
        "loss": state.sums["loss"] + loss * count,
        "correct": state.sums["correct"] + correct,
        "count": state.sums["count"] + count,
    }
    state = TrainState(state.step + 1, params, stats, opt_state, sums, state.scale)
    return state, {"loss": loss, "accuracy": correct / count}


def logits_step(model: dict, images: jax.Array, *, network: Network) -> jax.Array:
    """{"params", "stats"}, uint8 [b, size, size, 3] -> float32 logits [b, outputs], without dropout."""
    return nnx.merge(network.eval_def, model["params"], model["stats"])(images)


@dataclasses.dataclass(frozen=True)
class Steps:
    """Compiled for a mesh: parameters on every device, batches divided."""

    train: Callable[[TrainState, dict], tuple[TrainState, dict]]  # takes the state's memory
    logits: Callable[[dict, jax.Array], jax.Array]


def compile_logits(network: Network, mesh: jax.sharding.Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """`logits_step` for a mesh; the logits come whole to every device."""
    return jax.jit(lambda model, images: logits_step(model, images, network=network), out_shardings=runtime.replicated(mesh))


def compile_steps(network: Network, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, config) -> Steps:
    """Both steps of a training run."""
    whole = runtime.replicated(mesh)

    def train(state, batch):
        return train_step(state, batch, network=network, tx=tx, augment_config=config.augment, seed=config.seed)

    return Steps(jax.jit(train, donate_argnums=0, out_shardings=(whole, whole)), compile_logits(network, mesh))
